"""Gathered channels before and behind convolutions: folded into weights, or left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeconv.graph.channel_gathers import fold_channel_gathers
from edgeconv.graph.cluster_channels import cluster_channels
from edgeconv.graph.ir import Graph, Value
from tests.graph.graphs import Maker, Unchanged, only, ops


class Windows(Maker):
    """Makes slices, gathers and permutations of channels."""

    def channels(self, x: Value, begin: int, size: int, step: int = 1) -> Value:
        """A slice of the channels."""
        n, _, h, w = x.shape
        return self.node(
            "slice", x, begin=(0, begin, 0, 0), size=(n, size, h, w), step=(1, step, 1, 1)
        )

    def window(self, x: Value, first: int, width: int) -> Value:
        """`width` channels from `first` on, round to the first ones."""
        missing = first + width - x.shape[1]
        if missing <= 0:
            return self.channels(x, first, width)
        parts = [self.channels(x, first, width - missing), self.channels(x, 0, missing)]
        return self.node("concat", *parts, axis=1)

    def windows(self, x: Value, starts: Sequence[int], width: int) -> Value:
        """All windows, one after another."""
        return self.node("concat", *(self.window(x, s, width) for s in starts), axis=1)

    def gather(self, x: Value, indices: Sequence[int], axis: int = 1) -> Value:
        """A gather of constant indices."""
        places = self.graph.constant("i", np.array(indices, np.int64))
        return self.node("gather", x, places, axis=axis)

    def shuffle(self, x: Value, groups: int) -> Value:
        """Reshape, transpose, reshape."""
        n, c, h, w = x.shape
        y = self.node("reshape", x, shape=(n, groups, c // groups, h, w))
        y = self.node("transpose", y, perm=(0, 2, 1, 3, 4))
        return self.node("reshape", y, shape=x.shape)


def clusters_of(graph: Graph) -> str:
    """The clusters found in the only convolution."""
    assert cluster_channels(graph) == 1
    return str(only(graph, "conv2d").attrs["clusters"])


@pytest.mark.parametrize("bias", [False, True])
def test_windows_as_slices(bias: bool) -> None:
    maker = Windows()
    x = maker.input(2, 12, 4, 5)
    wide = maker.windows(x, [0, 3, 6, 9], 6)
    graph = maker.done(maker.conv(wide, 32, 1, groups=4, bias=bias))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["conv2d"]
    assert len(only(graph, "conv2d").source) == 8
    with Unchanged(graph):
        assert clusters_of(graph) == "windows4x6"


def test_windows_with_their_filters_in_order_behind() -> None:
    maker = Windows()
    x = maker.input(1, 12, 4, 5)
    y = maker.conv(maker.windows(x, [0, 3, 6, 9], 6), 32, 1, groups=4, bias=True)
    graph = maker.done(maker.node("relu", maker.shuffle(y, 4)))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 2
    assert ops(graph) == ["conv2d", "relu"]
    assert clusters_of(graph) == "windows4x6"
    members = only(graph, "conv2d").attrs["clusters"].members
    assert [c.outputs for c in members] == [tuple(range(p, 32, 4)) for p in range(4)]


@pytest.mark.parametrize("behind", ["gather", "slices"])
def test_permutations_behind(behind: str) -> None:
    maker = Windows()
    y = maker.conv(maker.input(1, 12, 4, 5), 8, 3, bias=True)
    if behind == "gather":
        y = maker.gather(y, [3, 1, 0, 2, 7, -2, 5, 4])
    else:
        y = maker.node("concat", maker.channels(y, 5, 3), maker.channels(y, 0, 5), axis=1)
    graph = maker.done(y)
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["conv2d"]


def test_filters_that_nobody_reads_are_left_out() -> None:
    """As where the last cycle of windows is not complete."""
    maker = Windows()
    x = maker.input(1, 12, 4, 5)
    y = maker.conv(maker.windows(x, [0, 3, 6, 9], 6), 12, 1, groups=4, bias=True)
    y = maker.channels(maker.shuffle(norm(maker, y), 4), 0, 10)
    graph = maker.done(y)
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 3
    assert only(graph, "conv2d").inputs[1].shape == (10, 12, 1, 1)


def test_another_convolution_reads_the_new_order() -> None:
    maker = Windows()
    y = maker.conv(maker.input(1, 12, 4, 5), 4)
    graph = maker.done(maker.gather(y, [2, 1, 0, 3]), maker.conv(y, 3))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["conv2d", "conv2d"]


def norm(maker: Windows, y: Value) -> Value:
    """Batch norm, as the importer makes it."""
    y = maker.node("multiply", y, maker.constant(y.shape[1], 1, 1))
    return maker.node("add", y, maker.constant(1, y.shape[1], 1, 1))


def _norm(maker: Windows, y: Value) -> Value:
    return norm(maker, y)


def _norm_and_activation(maker: Windows, y: Value) -> Value:
    return maker.node("clip", norm(maker, y), low=0.0, high=6.0)


def _scale_behind_activation(maker: Windows, y: Value) -> Value:
    return norm(maker, maker.node("hard_swish", y))


def _pool_and_depthwise(maker: Windows, y: Value) -> Value:
    return maker.conv(maker.pool(maker.node("relu", y)), 32, groups=32, bias=True)


def _sum_with_a_branch_of_its_own(maker: Windows, y: Value) -> Value:
    return maker.node("relu", maker.node("add", y, maker.conv(y, 32, 1)))


@pytest.mark.parametrize(
    "between",
    [
        _norm,
        _norm_and_activation,
        _scale_behind_activation,
        _pool_and_depthwise,
        _sum_with_a_branch_of_its_own,
    ],
)
def test_permutations_behind_what_keeps_channels_apart(between: object) -> None:
    assert callable(between)
    maker = Windows()
    x = maker.input(2, 12, 4, 5)
    y = maker.conv(maker.windows(x, [0, 3, 6, 9], 6), 32, 1, groups=4, bias=True)
    graph = maker.done(maker.shuffle(between(maker, y), 4))
    (name,) = (v.name for v in graph.outputs)
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 2
    assert not {"channel_shuffle", "slice", "concat", "reshape"} & set(ops(graph))
    assert [v.name for v in graph.outputs] == [name]
    assert sum("reshape" in n for node in graph.nodes for n in node.source) == 2


def test_a_table_of_indices() -> None:
    maker = Windows()
    x = maker.input(2, 12, 4, 5)
    table = maker.graph.constant("i", np.array([[0, 1, 2, 3], [10, 11, 0, 1]], np.int32))
    wide = maker.node("reshape", maker.node("gather", x, table, axis=1), shape=(2, 8, 4, 5))
    graph = maker.done(maker.conv(wide, 6, 1, groups=2))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["conv2d"]
    assert len(only(graph, "conv2d").source) == 3


def test_a_table_of_indices_that_pixels_join() -> None:
    maker = Windows()
    x = maker.input(1, 12, 4, 5)
    table = maker.graph.constant("i", np.array([[0, 1, 2, 3], [10, 11, 0, 1]], np.int64))
    wide = maker.node("reshape", maker.node("gather", x, table, axis=1), shape=(1, 4, 8, 5))
    graph = maker.done(maker.conv(wide, 6, 1, groups=2))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 0


def test_any_gathering_of_channels() -> None:
    """Indices that repeat, steps, a part that is the whole tensor, gathers of gathers."""
    maker = Windows()
    x = maker.input(1, 6, 4, 5)
    parts = [x, maker.gather(x, [5, 5, 0]), maker.channels(maker.channels(x, 5, 3, -1), 0, 2, 2)]
    wide = maker.gather(maker.node("concat", *parts, axis=1), [10, 9, 8, 7, 6, 6, 0, 1])
    graph = maker.done(maker.conv(wide, 6, 1, groups=2))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["conv2d"]


def test_wide_groups_of_wide_kernels() -> None:
    maker = Windows()
    wide = maker.windows(maker.input(1, 32, 6, 5), [0, 8, 16, 24], 16)
    graph = maker.done(maker.conv(wide, 32, 3, groups=4, bias=True))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
        assert clusters_of(graph) == "windows4x16"


def test_slices_used_elsewhere_stay_beside() -> None:
    maker = Windows()
    x = maker.input(1, 12, 4, 5)
    first = maker.channels(x, 0, 6)
    wide = maker.node("concat", first, maker.window(x, 9, 6), axis=1)
    graph = maker.done(maker.conv(wide, 8, 1, groups=2), maker.node("relu", first))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["slice", "conv2d", "relu"]


def test_two_convolutions_of_one_gathering() -> None:
    maker = Windows()
    wide = maker.windows(maker.input(1, 12, 4, 5), [0, 3, 6, 9], 6)
    graph = maker.done(*(maker.conv(wide, 8, 1, groups=4) for _ in range(2)))
    with Unchanged(graph):
        assert fold_channel_gathers(graph) == 1
    assert ops(graph) == ["conv2d", "conv2d"]


def _read_elsewhere(maker: Windows, x: Value) -> list[Value]:
    wide = maker.windows(x, [0, 3, 6, 9], 6)
    return [maker.conv(wide, 8, 1, groups=4), maker.node("relu", wide)]


def _an_output(maker: Windows, x: Value) -> list[Value]:
    wide = maker.windows(x, [0, 3, 6, 9], 6)
    return [maker.conv(wide, 8, 1, groups=4), wide]


def _of_two_tensors(maker: Windows, x: Value) -> list[Value]:
    other = maker.node("relu", x)
    wide = maker.node("concat", maker.channels(x, 0, 6), maker.channels(other, 3, 6), axis=1)
    return [maker.conv(wide, 8, 1, groups=2)]


def _activation_between(maker: Windows, x: Value) -> list[Value]:
    wide = maker.node("relu", maker.windows(x, [0, 3, 6, 9], 6))
    return [maker.conv(wide, 8, 1, groups=4)]


def _slices_of_rows(maker: Windows, x: Value) -> list[Value]:
    rows = [
        maker.node("slice", x, begin=(0, 0, i, 0), size=(1, 12, 2, 5), step=(1, 1, 1, 1))
        for i in range(2)
    ]
    return [maker.conv(maker.node("concat", *rows, axis=1), 8, 1, groups=4)]


def _gathered_rows(maker: Windows, x: Value) -> list[Value]:
    return [maker.conv(maker.gather(x, [1, 0, 3], axis=2), 8, 1, groups=4)]


def _indices_not_constant(maker: Windows, x: Value) -> list[Value]:
    places = maker.input(24, name="i", dtype="int64")
    return [maker.conv(maker.node("gather", x, places, axis=1), 8, 1, groups=4)]


def _weights_not_constant(maker: Windows, x: Value) -> list[Value]:
    wide = maker.windows(x, [0, 3, 6, 9], 6)
    return [maker.conv(wide, 8, 1, groups=4, weight=maker.input(8, 6, 1, 1, name="w"))]


def _depthwise(maker: Windows, x: Value) -> list[Value]:
    return [maker.conv(maker.gather(x, [3, 2, 1, 0]), 4, 3, groups=4)]


def _narrow_groups_of_wide_kernels(maker: Windows, x: Value) -> list[Value]:
    return [maker.conv(maker.windows(x, [0, 3, 6, 9], 4), 8, 3, groups=4)]


def _dense(maker: Windows, x: Value) -> list[Value]:
    return [maker.conv(maker.channels(x, 6, 6), 8, 1)]


@pytest.mark.parametrize(
    "case",
    [
        _read_elsewhere,
        _an_output,
        _of_two_tensors,
        _activation_between,
        _slices_of_rows,
        _gathered_rows,
        _indices_not_constant,
        _weights_not_constant,
        _depthwise,
        _narrow_groups_of_wide_kernels,
        _dense,
    ],
)
def test_left_before(case: object) -> None:
    assert callable(case)
    maker = Windows()
    graph = maker.done(*case(maker, maker.input(1, 12, 4, 5)))
    before = str(graph)
    assert fold_channel_gathers(graph) == 0
    assert str(graph) == before


def _both_orders(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(y, [2, 1, 0, 3]), maker.node("relu", y)]


def _original_is_output(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(y, [2, 1, 0, 3]), y]


def _selection(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(y, [2, 1, 0]), maker.conv(y, 3)]


def _repetition(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(y, [2, 1, 0, 0])]


def _activation_is_output(maker: Windows, y: Value) -> list[Value]:
    y = maker.node("relu", y)
    return [maker.gather(y, [2, 1, 0, 3]), y]


def _activated_twice(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(maker.node("relu", y), [2, 1, 0, 3]), maker.node("tanh", y)]


def _convolution_has_two_readers(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(maker.node("relu", y), [2, 1, 0, 3]), maker.conv(y, 6, groups=2)]


def _added_to_an_input(maker: Windows, y: Value) -> list[Value]:
    y = maker.node("add", y, maker.input(*y.shape, name="z"))
    return [maker.gather(y, [2, 1, 0, 3])]


def _behind_channels_mixed(maker: Windows, y: Value) -> list[Value]:
    y = maker.node("softmax", y, axis=1)
    return [maker.gather(y, [2, 1, 0, 3])]


def _added_to_every_pixel(maker: Windows, y: Value) -> list[Value]:
    return [maker.gather(maker.node("add", y, maker.constant(1, 4, 4, 5)), [2, 1, 0, 3])]


def _part_of_the_order_seen(maker: Windows, y: Value) -> list[Value]:
    first, last = maker.channels(y, 0, 1), maker.channels(y, 1, 3)
    return [maker.node("concat", last, first, axis=1), maker.node("relu", first)]


def _behind_a_grouped_convolution(maker: Windows, y: Value) -> list[Value]:
    y = maker.node("relu", maker.conv(y, 4, groups=2))
    return [maker.gather(y, [2, 1, 0, 3])]


@pytest.mark.parametrize(
    "case",
    [
        _both_orders,
        _original_is_output,
        _selection,
        _repetition,
        _activation_is_output,
        _activated_twice,
        _convolution_has_two_readers,
        _added_to_an_input,
        _behind_channels_mixed,
        _added_to_every_pixel,
        _part_of_the_order_seen,
        _behind_a_grouped_convolution,
    ],
)
def test_left_behind(case: object) -> None:
    assert callable(case)
    maker = Windows()
    graph = maker.done(*case(maker, maker.conv(maker.input(1, 12, 4, 5), 4)))
    assert fold_channel_gathers(graph) == 0


def test_grouped_convolutions_keep_what_follows() -> None:
    maker = Windows()
    y = maker.conv(maker.input(1, 12, 4, 5), 4, groups=2)
    assert fold_channel_gathers(maker.done(maker.gather(y, [2, 1, 0, 3]))) == 0
