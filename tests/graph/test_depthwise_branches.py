"""Recognition of depthwise convolutions that share an input: merged sums, and branches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeconv.graph.depthwise_branches import depthwise_branches
from edgeconv.graph.fold_scale import fold_scale
from edgeconv.graph.fuse_epilogue import fuse_epilogue
from edgeconv.graph.ir import Graph, Value
from edgeconv.graph.merge_depthwise_sum import merge_depthwise_sum
from tests.graph.graphs import Maker, Unchanged, only, ops

C = 6


def depthwise(
    maker: Maker,
    x: Value,
    kernel: tuple[int, int] = (3, 3),
    dilation: tuple[int, int] = (1, 1),
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] | None = None,
    bias: bool = True,
    groups: int | None = None,
) -> Value:
    """A depthwise convolution that keeps the size if the stride is 1."""
    c = x.shape[1]
    if padding is None:
        top, left = (d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        after = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, (top, left), strict=True)]
        padding = (top, left, after[0], after[1])
    groups = groups or c
    weight = maker.constant(c, c // groups, *kernel)
    operands = [x, weight, *([maker.constant(c)] if bias else [])]
    return maker.node(
        "conv2d",
        *operands,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        has_bias=bias,
    )


def start(height: int = 11, width: int = 9) -> tuple[Maker, Value]:
    maker = Maker()
    return maker, maker.input(2, C, height, width)


# sums of linear ones


def taps(graph: Graph) -> int:
    return int(only(graph, "depthwise_branches").attrs["branches"].taps)


def test_two_dilations_have_seventeen_taps() -> None:
    maker, x = start()
    y = maker.node("add", depthwise(maker, x), depthwise(maker, x, dilation=(2, 2)))
    graph = maker.done(maker.node("relu", y))
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
        assert fuse_epilogue(graph) == 1
    assert ops(graph) == ["depthwise_branches"]
    node = only(graph, "depthwise_branches")
    assert taps(graph) == 17
    assert node.attrs["kernel_size"] == (5, 5)
    assert set(node.source) == {"conv2d0", "conv2d1", "add2", "relu3"}


def test_filters_of_any_form_and_padding() -> None:
    """Unequal kernels, dilations and paddings, as long as the outputs agree."""
    maker, x = start()
    total = depthwise(maker, x, (1, 5), padding=(0, 4, 0, 0), bias=False)
    for kernel, dilation, padding in (
        ((3, 1), (3, 1), (0, 0, 6, 0)),
        ((2, 2), (1, 2), (1, 1, 0, 1)),
        ((5, 3), (1, 1), None),
    ):
        branch = depthwise(maker, x, kernel, dilation, padding=padding)
        total = maker.node("add", branch, total)
    graph = maker.done(total)
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
    assert ops(graph) == ["depthwise_branches"]


@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_strides(stride: tuple[int, int]) -> None:
    maker, x = start(12, 10)
    branches = [depthwise(maker, x, dilation=(d, d), stride=stride) for d in (1, 2)]
    graph = maker.done(maker.node("add", *branches))
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1


def test_taps_that_fill_a_grid_are_an_ordinary_convolution() -> None:
    """3×3 + 1×1 + x, and a constant: one 3×3 with a bias."""
    maker, x = start()
    y = maker.node("add", depthwise(maker, x), depthwise(maker, x, (1, 1)))
    y = maker.node("add", x, y)
    y = maker.node("add", y, maker.constant(1, C, 1, 1))
    graph = maker.done(y)
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
    assert ops(graph) == ["conv2d"]
    assert only(graph, "conv2d").inputs[1].shape == (C, 1, 3, 3)


def test_scaled_input_is_a_tap() -> None:
    maker, x = start()
    scaled = maker.node("multiply", x, maker.constant(C, 1, 1))
    graph = maker.done(maker.node("add", scaled, depthwise(maker, x, dilation=(2, 2))))
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
    assert ops(graph) == ["conv2d"]


def test_batch_norm_behind_the_sum_is_folded() -> None:
    maker, x = start()
    y = maker.node("add", depthwise(maker, x), depthwise(maker, x, dilation=(2, 2)))
    y = maker.node("multiply", y, maker.constant(C, 1, 1))
    graph = maker.done(maker.node("add", y, maker.constant(C, 1, 1)))
    with Unchanged(graph):
        merge_depthwise_sum(graph)
        assert fold_scale(graph) == 2
    assert ops(graph) == ["depthwise_branches"]


def test_taps_outside_the_map_and_zeros_are_dropped() -> None:
    """On 4×4 pixels a dilation of 5 leaves the middle of a 3×3."""
    maker, x = start(4, 4)
    y = maker.node("add", depthwise(maker, x), depthwise(maker, x, dilation=(5, 5)))
    graph = maker.done(y)
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
    assert only(graph, "conv2d").attrs["padding"] == (1, 1, 1, 1)


def test_other_summands_stay() -> None:
    maker, x = start()
    other = maker.input(2, C, 11, 9, name="other")
    y = maker.node("add", depthwise(maker, x), other)
    y = maker.node("add", y, depthwise(maker, x, dilation=(2, 2)))
    y = maker.node("add", depthwise(maker, other), y)
    graph = maker.done(y)
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) >= 1
    assert ops(graph).count("depthwise_branches") == 1


# what must not be merged


def shared(maker: Maker, x: Value) -> list[Value]:
    """One branch is used twice."""
    a, b = depthwise(maker, x), depthwise(maker, x, dilation=(2, 2))
    return [maker.node("add", a, b), maker.node("relu", a)]


def an_output(maker: Maker, x: Value) -> list[Value]:
    a, b = depthwise(maker, x), depthwise(maker, x, dilation=(2, 2))
    return [maker.node("add", a, b), a]


def unequal_strides(maker: Maker, x: Value) -> list[Value]:
    """Equal sizes: 11x9 at stride 1 without padding, 3×3 of dilation 3 and 2, is 5x5."""
    a = depthwise(maker, x, stride=(2, 2))
    b = depthwise(maker, x, padding=(0, 0, 1, 0), dilation=(3, 2))
    assert a.shape == b.shape
    return [maker.node("add", a, b)]


def other_input(maker: Maker, x: Value) -> list[Value]:
    return [maker.node("add", depthwise(maker, x), depthwise(maker, maker.node("relu", x)))]


def grouped(maker: Maker, x: Value) -> list[Value]:
    return [maker.node("add", depthwise(maker, x, groups=2), depthwise(maker, x, groups=1))]


def one_and_a_pointwise(maker: Maker, x: Value) -> list[Value]:
    return [maker.node("add", depthwise(maker, x), maker.conv(x, C, 1))]


def broadcast(maker: Maker, x: Value) -> list[Value]:
    """The second output is one pixel, repeated by the addition."""
    pixel = depthwise(maker, x, (11, 9), padding=(0, 0, 0, 0))
    return [maker.node("add", depthwise(maker, x), pixel)]


NEGATIVE = [
    shared,
    an_output,
    unequal_strides,
    other_input,
    grouped,
    one_and_a_pointwise,
    broadcast,
]


@pytest.mark.parametrize("make", NEGATIVE)
@pytest.mark.parametrize("rule", [merge_depthwise_sum, depthwise_branches])
def test_what_stays_apart(
    rule: Callable[[Graph], int], make: Callable[[Maker, Value], list[Value]]
) -> None:
    maker, x = start()
    graph = maker.done(*make(maker, x))
    assert rule(graph) == 0


def test_activations_are_not_summed_into_taps() -> None:
    maker, x = start()
    a = maker.node("relu", depthwise(maker, x))
    graph = maker.done(maker.node("add", a, depthwise(maker, x, dilation=(2, 2))))
    assert merge_depthwise_sum(graph) == 0


# branches


@pytest.mark.parametrize("stride", [1, 2])
def test_sum_of_activated_branches(stride: int) -> None:
    maker, x = start()
    total: Value | None = None
    for d, act in ((1, "relu"), (2, "hard_swish"), (3, None)):
        y = depthwise(maker, x, dilation=(d, d), stride=(stride, stride))
        y = y if act is None else maker.node(act, y)
        total = y if total is None else maker.node("add", total, y)
    assert total is not None
    graph = maker.done(maker.node("sigmoid", total))
    with Unchanged(graph):
        assert depthwise_branches(graph) == 1
        fuse_epilogue(graph)
    assert ops(graph) == ["depthwise_branches"]
    branches = only(graph, "depthwise_branches").attrs["branches"]
    assert [b.activation and b.activation[0] for b in branches.members] == [
        "relu",
        "hard_swish",
        None,
    ]


def test_the_input_and_others_among_the_summands() -> None:
    maker, x = start()
    y = maker.node("add", maker.node("relu", depthwise(maker, x)), x)
    y = maker.node("add", y, maker.node("relu", depthwise(maker, x, (5, 5))))
    y = maker.node("add", maker.conv(x, C, 1), y)
    graph = maker.done(y)
    with Unchanged(graph):
        assert depthwise_branches(graph) == 1
    assert sorted(ops(graph)) == ["add", "conv2d", "depthwise_branches"]
    assert len(only(graph, "depthwise_branches").attrs["branches"].members) == 3


@pytest.mark.parametrize("place", [0, 1])
def test_concat_with_a_pointwise_branch(place: int) -> None:
    """The pointwise branch of an Inception or ASPP block stays; neighbours go together."""
    maker, x = start()
    branches = [maker.node("relu", depthwise(maker, x, dilation=(d, d))) for d in (1, 2, 4)]
    branches.insert(place, maker.conv(x, 5, 1))
    graph = maker.done(maker.node("concat", *branches, axis=1))
    with Unchanged(graph):
        assert depthwise_branches(graph) == 1
    node = only(graph, "depthwise_branches")
    assert len(node.attrs["branches"].members) == (2 if place == 1 else 3)
    assert only(graph, "concat").output.shape[1] == 3 * C + 5


def test_concat_of_sums_and_branches() -> None:
    maker, x = start()
    merged = maker.node("add", depthwise(maker, x), depthwise(maker, x, dilation=(2, 2)))
    graph = maker.done(maker.node("concat", merged, depthwise(maker, x, (5, 5)), axis=1))
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
        assert depthwise_branches(graph) == 1
    assert ops(graph) == ["depthwise_branches"]
    assert taps(graph) == 17 + 25


def test_concat_of_rows_stays() -> None:
    maker, x = start()
    graph = maker.done(maker.node("concat", depthwise(maker, x), depthwise(maker, x), axis=2))
    assert depthwise_branches(graph) == 0


def test_weights_of_zeros_are_no_taps() -> None:
    """A dilated filter that was exported filled up with zeros."""
    maker, x = start()
    weight = np.zeros((C, 1, 5, 5), np.float32)
    weight[:, :, ::2, ::2] = maker.rng.standard_normal((C, 1, 3, 3))
    filled = maker.conv(x, C, 5, groups=C, weight=maker.graph.constant("w", weight))
    graph = maker.done(maker.node("add", filled, depthwise(maker, x)))
    with Unchanged(graph):
        assert merge_depthwise_sum(graph) == 1
    assert taps(graph) == 17
