"""Dead channels in concatenations, slices and groups: dropped, or kept to fill up vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeconv.graph.channel_sources import read_channels_at_source
from edgeconv.graph.constant_channels import constant_channels
from edgeconv.graph.dead_channels import remove_dead_channels
from edgeconv.graph.findings import findings
from edgeconv.graph.ir import Value
from tests.graph.graphs import Unchanged, only, ops
from tests.graph.test_channel_gathers import Windows
from tests.graph.test_channel_sources import LANES, MOVES, Units, prepared, stages
from tests.graph.test_dead_channels import NO_PADDING, Deadly, convolutions, widths


class Branches(Deadly, Windows):
    """Makes convolutions with dead filters, slices and concatenations."""

    def dead(self, x: Value, channels: int, rows: Sequence[int], kernel: int = 3) -> Value:
        """A convolution with bias and ReLU, some of its filters dead."""
        weight = self.filters(x, channels, kernel, rows)
        return self.node("relu", self.conv(x, channels, kernel, bias=True, weight=weight))

    def joined(self, *parts: Value) -> Value:
        """Channels behind each other."""
        return self.node("concat", *parts, axis=1)


@pytest.mark.parametrize("bias", [False, True])
def test_operands_lose_channels_with_constants_of_any_value(bias: bool) -> None:
    maker = Branches()
    x = maker.input(2, 3, 7, 6)
    a, b = maker.dead(x, 8, [1, 5]), maker.dead(x, 6, [0, 1, 2])
    for node in convolutions(maker.graph):
        assert node.inputs[2].data is not None
        node.inputs[2].data[:] = np.abs(node.inputs[2].data) + 0.5
    y = maker.joined(a, x, b)
    graph = maker.done(maker.conv(maker.pool(y), 4, padding=NO_PADDING, bias=bias))
    assert (constant_channels(graph)[y] > 0).sum() == 5
    with Unchanged(graph):
        assert remove_dead_channels(graph, lanes=8) == 5
    assert widths(graph) == [6, 3, 4]


def test_borders_see_which_channel_is_not_zero() -> None:
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    y = maker.joined(maker.dead(x, 8, [1, 5]), maker.dead(x, 6, [0]))
    biases = [n.inputs[2].data for n in convolutions(maker.graph)]
    assert biases[0] is not None
    assert biases[1] is not None
    biases[0][[1, 5]] = 2, -2
    biases[1][0] = 3
    graph = maker.done(maker.conv(y, 4))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 1
    assert widths(graph) == [7, 6, 4]


def test_a_dead_operand_goes_and_the_rest_is_joined() -> None:
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    parts = maker.dead(x, 4, []), maker.pool(maker.dead(x, 5, range(5))), maker.dead(x, 6, [2])
    graph = maker.done(maker.conv(maker.joined(*parts), 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 6
    assert widths(graph) == [4, 5, 4]
    assert len(only(graph, "concat").inputs) == 2


def test_one_operand_is_left() -> None:
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    y = maker.joined(maker.dead(x, 5, range(5)), maker.dead(x, 6, [2]))
    graph = maker.done(maker.conv(maker.node("tanh", y), 4, 1), maker.conv(y, 3, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 6
    assert "concat" not in ops(graph)
    assert widths(graph) == [5, 4, 3]


def test_all_operands_are_dead() -> None:
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    y = maker.joined(maker.dead(x, 5, range(5)), maker.dead(x, 6, range(6)))
    graph = maker.done(maker.conv(y, 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 10
    assert widths(graph) == [1, 4]


def test_operands_of_several_concatenations() -> None:
    """A channel stays that one of them needs."""
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    a, b = maker.dead(x, 4, []), maker.dead(x, 4, [])
    unread = [maker.zeros(maker.constant(5, 8, 1, 1), (), c) for c in ([0, 1, 5], [1, 2, 7])]
    first = maker.conv(maker.joined(a, b), 5, 1, weight=unread[0])
    other = maker.conv(maker.joined(b, a), 5, 1, weight=unread[1])
    graph = maker.done(first, other)
    # unread by the first: a0 a1 b1, by the other: b1 b2 a3
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 1
    assert widths(graph) == [4, 3, 5, 5]


def test_the_network_s_inputs_and_constants_stay() -> None:
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    y = maker.joined(x, maker.dead(x, 4, [1]), maker.constant(1, 2, 7, 6))
    weight = maker.zeros(maker.constant(5, 9, 1, 1), (), [0, 3, 8])
    graph = maker.done(maker.conv(y, 5, 1, weight=weight))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 2
    assert [v.shape[1] for v in only(graph, "concat").inputs] == [3, 2, 2]


def test_slices_lose_channels_and_start_elsewhere() -> None:
    maker = Branches()
    x = maker.input(2, 3, 7, 6)
    y = maker.dead(x, 12, [0, 3, 7, 11])
    parts = maker.channels(y, 0, 4), maker.channels(y, 4, 6), maker.channels(y, 6, 6)
    graph = maker.done(*(maker.conv(part, 5, 1) for part in parts))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 4
    slices = [n for n in graph if n.op == "slice"]
    assert [(n.attrs["begin"][1], n.attrs["size"][1]) for n in slices] == [(0, 2), (2, 5), (4, 4)]


def test_channels_that_no_slice_takes() -> None:
    maker = Branches()
    y = maker.dead(maker.input(1, 3, 7, 6), 12, [])
    parts = maker.channels(y, 1, 4), maker.channels(y, 3, 6)
    graph = maker.done(*(maker.conv(part, 5) for part in parts))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 4
    assert widths(graph)[0] == 8


def test_slices_of_rows_stay() -> None:
    maker = Branches()
    y = maker.dead(maker.input(1, 3, 7, 6), 12, [2])
    size = (1, 12, 3, 6)
    part = maker.node("slice", y, begin=(0, 0, 2, 0), size=size, step=(1, 1, 1, 1))
    assert remove_dead_channels(maker.done(maker.conv(part, 5, 1))) == 0


@pytest.mark.parametrize("filters", [6, 12])
def test_whole_groups(filters: int) -> None:
    """What a dead group makes, and what it alone reads."""
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    y = maker.dead(x, 6, [])
    per_group = filters // 3
    weight = maker.zeros(maker.constant(filters, 2, 3, 3), range(per_group, 2 * per_group))
    y = maker.conv(y, filters, groups=3, bias=True, weight=weight)
    graph = maker.done(maker.conv(maker.node("relu", y), 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == per_group
    assert widths(graph) == [4, 2 * per_group, 4]
    assert convolutions(graph)[1].attrs["groups"] == 2


def test_groups_that_are_half_dead_stay() -> None:
    maker = Branches()
    y = maker.dead(maker.input(1, 3, 7, 6), 6, [0, 2, 4])
    y = maker.conv(y, 6, groups=3, weight=maker.filters(maker.constant(1, 2), 6, 3, [1, 2]))
    graph = maker.done(maker.conv(y, 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 0


def test_groups_whose_inputs_something_else_reads_stay() -> None:
    maker = Branches()
    y = maker.dead(maker.input(1, 3, 7, 6), 6, [])
    grouped = maker.conv(y, 6, groups=3, weight=maker.filters(maker.constant(1, 2), 6, 3, [0, 1]))
    graph = maker.done(maker.conv(grouped, 4, 1), maker.conv(y, 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 0


def test_depthwise_multipliers() -> None:
    maker = Branches()
    y = maker.dead(maker.input(1, 3, 7, 6), 4, [2])
    biases = convolutions(maker.graph)[0].inputs[2].data
    assert biases is not None
    biases[2] = -1
    graph = maker.done(maker.conv(maker.conv(y, 8, groups=4, bias=True), 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 2
    assert widths(graph) == [3, 6, 4]


@pytest.mark.parametrize(("dead", "kept"), [(3, 24), (8, 16), (13, 16), (24, 0)])
def test_operands_joined_in_place_stay_whole_vectors(dead: int, kept: int) -> None:
    maker = Branches()
    x = maker.input(1, 3, 7, 6)
    parts = maker.dead(x, 24, range(24)[:dead]), maker.dead(x, 16, []), maker.dead(x, 9, [0, 4])
    graph = maker.done(maker.conv(maker.joined(*parts), 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph, lanes=8) == 24 - kept + 2
    assert (
        [v.shape[1] for v in only(graph, "concat").inputs] == [16, 7] if not kept else [kept, 16, 7]
    )


def test_slices_read_in_place_stay_whole_vectors() -> None:
    maker = Branches()
    y = maker.dead(maker.input(1, 3, 7, 6), 37, [*range(1, 11), 16, 33, 35])
    parts = maker.channels(y, 0, 16), maker.channels(y, 16, 21)
    graph = maker.done(*(maker.conv(part, 5, 1) for part in parts))
    with Unchanged(graph):
        assert remove_dead_channels(graph, lanes=8) == 11
    slices = [n for n in graph if n.op == "slice"]
    assert [(n.attrs["begin"][1], n.attrs["size"][1]) for n in slices] == [(0, 8), (8, 18)]


@pytest.mark.parametrize("channels", [16, 20, 44])
@pytest.mark.parametrize("first", ["sources", "dead"])
def test_shufflenet_stages_with_dead_filters_move_nothing(channels: int, first: str) -> None:
    """Filters of zeros that fill up vectors are not taken away again."""
    maker = Units()
    x = stages(maker, maker.input(1, 12, 9, 10), (2, 1), channels)
    graph = prepared(maker.done(maker.conv(x, 24, 1)))
    for node in graph.nodes:
        if node.op == "conv2d" and node.attrs["groups"] == 1:
            weight = node.inputs[1].data
            assert weight is not None
            weight[maker.rng.random(len(weight)) < 0.2] = 0
    with Unchanged(graph):
        removed = remove_dead_channels(graph, LANES) if first == "dead" else 0
        assert read_channels_at_source(graph, LANES) > 0
        removed += remove_dead_channels(graph, LANES)
    assert removed > 0
    assert not MOVES & set(ops(graph))
    for node in graph.nodes:
        if node.op == "concat":
            assert all(v.shape[1] % LANES == 0 for v in node.inputs[:-1])


def test_reported_with_what_is_saved() -> None:
    maker = Branches()
    x = maker.input(1, 3, 10, 10)
    y = maker.joined(maker.dead(x, 16, range(16)), maker.dead(x, 8, [1, 5, 6]))
    graph = maker.done(maker.conv(y, 4, 1))
    saved = 100 * 19 * (3 * 9 + 4) / 1e6
    (line,) = findings(graph)
    assert line == f"dead filters removed: 19 channels, {saved:,.1f} M multiply-adds"


class Layers(Units, Branches):
    """Makes dead filters, and weights under which values don't grow."""


def random_graph(seed: int) -> Layers:
    """Layers of all kinds with dead filters, weights of zero and constants."""
    maker = Layers()
    maker.rng = rng = np.random.default_rng(seed)
    images = [maker.dead(maker.input(int(rng.integers(1, 3)), 3, 6, 7), 6, [1])]

    def thin(value: Value) -> Value:
        k, c = value.shape[:2]
        return maker.zeros(
            value, np.flatnonzero(rng.random(k) < 0.3), np.flatnonzero(rng.random(c) < 0.2)
        )

    for _ in range(rng.integers(3, 9)):
        x = images[-1] if rng.integers(3) else images[rng.integers(len(images))]
        channels, kind = x.shape[1], rng.integers(9)
        if kind == 0:
            groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
            filters = groups * int(rng.integers(1, 4))
            weight = thin(maker.constant(filters, channels // groups, 3, 3))
            y = maker.conv(x, filters, groups=groups, bias=bool(rng.integers(2)), weight=weight)
        elif kind in (1, 2):
            kernel = int(rng.choice([1, 3]))
            weight = thin(maker.constant(int(rng.integers(2, 11)), channels, kernel, kernel))
            y = maker.conv(x, weight.shape[0], kernel, bias=bool(rng.integers(2)), weight=weight)
        elif kind == 3:
            y = maker.joined(x, *(images[i] for i in rng.integers(0, len(images), 2)))
        elif kind == 4 and channels > 2:
            begin = int(rng.integers(0, channels - 1))
            y = maker.channels(x, begin, int(rng.integers(1, channels - begin + 1)))
        elif kind == 5:
            y = maker.pool(x, str(rng.choice(["max_pool2d", "avg_pool2d"])))
        elif kind == 6:
            y = maker.node(str(rng.choice(["multiply", "add"])), x, maker.constant(channels, 1, 1))
        elif kind == 7:
            same = [i for i in images if i.shape == x.shape]
            y = maker.node("add", x, same[rng.integers(len(same))])
        else:
            y = maker.node(str(rng.choice(["relu", "sigmoid", "hard_swish"])), x)
        images.append(y)
    last = [maker.conv(y, 4, 1) for y in images[-2:]]
    outputs = [*last, images[-1]] if rng.integers(4) == 0 else last
    maker.done(*outputs)
    return maker


def check_random(seed: int) -> None:
    graph = random_graph(seed).graph
    lanes = (1, 4)[seed % 2]
    with Unchanged(graph):
        remove_dead_channels(graph, lanes)
    assert remove_dead_channels(graph, lanes) == 0


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs(seed: int) -> None:
    check_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_random_graphs(seed: int) -> None:
    check_random(seed)
