"""Channels joined, shuffled and split between convolutions: read where they were made, or left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edgeconv.graph.channel_gathers import fold_channel_gathers
from edgeconv.graph.channel_sources import read_channels_at_source
from edgeconv.graph.ir import Graph, Value
from tests.graph.graphs import Unchanged, only, ops
from tests.graph.test_channel_gathers import Windows

LANES = 8
MOVES = {"slice", "gather", "channel_shuffle", "reshape", "transpose"}


class Units(Windows):
    """Makes the units of ShuffleNetV2."""

    def constant(self, *shape: int) -> Value:
        """Random weights under which values don't grow."""
        data = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.graph.constant("c", data.astype(np.float32))

    def unit(self, x: Value) -> Value:
        """Half of the channels through 1x1, 3x3 depthwise and 1x1; joined and shuffled."""
        half = x.shape[1] // 2
        kept, y = self.channels(x, 0, half), self.channels(x, half, half)
        y = self.conv(self.depthwise(self.conv(y, half, 1, bias=True)), half, 1)
        return self.shuffle(self.node("concat", kept, y, axis=1), 2)

    def depthwise(self, x: Value, stride: int = 1) -> Value:
        """3x3, a filter for each channel."""
        return self.conv(x, x.shape[1], 3, groups=x.shape[1], bias=True, stride=stride)

    def down(self, x: Value, channels: int) -> Value:
        """Both branches read all channels, with a stride of 2."""
        left = self.conv(self.depthwise(x, 2), channels // 2, 1)
        right = self.conv(
            self.depthwise(self.conv(x, channels // 2, 1), 2), channels // 2, 1, bias=True
        )
        return self.shuffle(self.node("concat", left, right, axis=1), 2)


def prepared(graph: Graph) -> Graph:
    """As the pass gets it: shuffles are recognised."""
    fold_channel_gathers(graph)
    return graph


def stages(maker: Units, x: Value, units: Sequence[int], channels: int) -> Value:
    for count in units:
        x = maker.down(x, channels)
        for _ in range(count):
            x = maker.unit(x)
        channels *= 2
    return x


@pytest.mark.parametrize(("units", "channels"), [((3,), 16), ((2, 1), 20)])
def test_shufflenet_stages_move_nothing(units: Sequence[int], channels: int) -> None:
    maker = Units()
    x = stages(maker, maker.input(1, 12, 9, 10), units, channels)
    graph = prepared(maker.done(maker.conv(x, 24, 1)))
    with Unchanged(graph):
        assert read_channels_at_source(graph, LANES) > 0
    assert not MOVES & set(ops(graph))
    for node in graph.nodes:
        if node.op == "concat":  # whole vectors, so that it is done in place
            assert all(v.shape[1] % LANES == 0 for v in node.inputs[:-1])


def test_names_of_the_nodes_are_kept() -> None:
    maker = Units()
    x = stages(maker, maker.input(1, 12, 6, 6), (2,), 16)
    graph = prepared(maker.done(maker.conv(x, 24, 1)))
    before = {name for node in graph.nodes for name in node.source}
    read_channels_at_source(graph, LANES)
    after = [name for node in graph.nodes for name in node.source]
    gone = {n for n in before - set(after) if not n.startswith("concat")}
    assert not gone


def shuffled_join(maker: Units, x: Value) -> tuple[Value, ...]:
    """Two convolutions' channels, joined and shuffled."""
    a, b = maker.conv(x, 16, 1), maker.conv(x, 16, 3)
    return maker.shuffle(maker.node("concat", a, b, axis=1), 2), a, b


def test_one_join() -> None:
    maker = Units()
    joined, *_ = shuffled_join(maker, maker.input(1, 8, 5, 6))
    graph = prepared(maker.done(maker.conv(joined, 8, 1)))
    with Unchanged(graph):
        read_channels_at_source(graph, LANES)
    assert ops(graph).count("concat") == 1
    assert not MOVES & set(ops(graph))


REFUSED: dict[str, Callable[[Units, Value], tuple[Value, ...]]] = {}


def refused(build: Callable[[Units, Value], tuple[Value, ...]]) -> None:
    REFUSED[build.__name__] = build


@refused
def wide_kernel(maker: Units, x: Value) -> tuple[Value, ...]:
    joined, *_ = shuffled_join(maker, x)
    return (maker.conv(joined, 8, 3),)


@refused
def grouped(maker: Units, x: Value) -> tuple[Value, ...]:
    joined, *_ = shuffled_join(maker, x)
    return (maker.conv(joined, 8, 1, groups=2),)


@refused
def output(maker: Units, x: Value) -> tuple[Value, ...]:
    joined, *_ = shuffled_join(maker, x)
    return (joined, maker.conv(joined, 8, 1))


@refused
def pooled(maker: Units, x: Value) -> tuple[Value, ...]:
    joined, *_ = shuffled_join(maker, x)
    return (maker.conv(joined, 8, 1), maker.pool(joined))


@refused
def odd_part_read_elsewhere(maker: Units, x: Value) -> tuple[Value, ...]:
    a, b = maker.conv(x, 12, 1), maker.conv(x, 12, 3)
    joined = maker.shuffle(maker.node("concat", a, b, axis=1), 2)
    return (maker.conv(joined, 8, 1), maker.conv(a, 8, 3))


@refused
def odd_part_of_no_convolution(maker: Units, x: Value) -> tuple[Value, ...]:
    pooled = maker.pool(maker.conv(x, 12, 1))
    joined = maker.node("concat", pooled, maker.conv(x, 16, 3), axis=1)
    return (maker.conv(maker.shuffle(joined, 2), 8, 1),)


@refused
def whole_vectors_only(maker: Units, x: Value) -> tuple[Value, ...]:
    a, b = maker.conv(x, 16, 1), maker.conv(x, 16, 3)
    joined = maker.node("concat", a, b, axis=1)
    return (maker.conv(joined, 8, 1), maker.conv(maker.channels(joined, 8, 16), 8, 1))


@refused
def depthwise_that_is_read_by_a_wide_kernel(maker: Units, x: Value) -> tuple[Value, ...]:
    joined, *_ = shuffled_join(maker, x)
    return (maker.conv(maker.depthwise(joined), 8, 3),)


@refused
def rows_too(maker: Units, x: Value) -> tuple[Value, ...]:
    joined, *_ = shuffled_join(maker, x)
    size = (1, 16, joined.shape[2] - 1, joined.shape[3])
    part = maker.node("slice", joined, begin=(0, 8, 1, 0), size=size, step=(1, 1, 1, 1))
    return (maker.conv(part, 8, 1),)


@pytest.mark.parametrize("name", REFUSED)
def test_left_as_it_is(name: str) -> None:
    maker = Units()
    graph = prepared(maker.done(*REFUSED[name](maker, maker.input(1, 8, 5, 6))))
    with Unchanged(graph):
        assert read_channels_at_source(graph, LANES) == 0


def test_left_in_batches() -> None:
    maker = Units()
    joined, *_ = shuffled_join(maker, maker.input(2, 8, 5, 6))
    graph = prepared(maker.done(maker.conv(joined, 8, 1)))
    with Unchanged(graph):
        assert read_channels_at_source(graph, LANES) == 0


def test_depthwise_convolution_of_too_many_channels_is_left() -> None:
    maker = Units()
    x = maker.input(1, 8, 24, 24)
    parts = [maker.conv(x, 16, 1) for _ in range(40)]
    joined = maker.node("concat", *(maker.channels(p, 3, 1) for p in parts), axis=1)
    deep = maker.conv(joined, 40, 7, groups=40)
    graph = prepared(maker.done(maker.conv(deep, 8, 1)))
    with Unchanged(graph):
        assert read_channels_at_source(graph, LANES) == 0
    assert only(graph, "concat").inputs[0].shape[1] == 1


def test_a_channel_read_twice_adds_up() -> None:
    maker = Units()
    x = maker.input(1, 8, 5, 6)
    a, b = maker.conv(x, 16, 1), maker.conv(x, 16, 3)
    twice = maker.node("concat", maker.channels(a, 3, 5), b, maker.channels(a, 2, 4), axis=1)
    graph = prepared(maker.done(maker.conv(twice, 8, 1)))
    with Unchanged(graph):
        assert read_channels_at_source(graph, LANES) == 3
    weight = graph.nodes[-1].inputs[1].data
    assert weight is not None
    assert np.count_nonzero(weight.any(axis=(0, 2, 3))) == 22
