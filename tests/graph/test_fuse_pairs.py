"""Pointwise and depthwise convolutions become one node, and when they must not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeconv.graph import depthwise_pointwise, pointwise_depthwise
from edgeconv.graph.fuse_epilogue import fuse_epilogue
from edgeconv.graph.fuse_pairs import best_matching, candidates, fuse_pairs
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.layout import choose_layouts
from edgeconv.graph.pairs import halves, is_pair
from tests.graph.graphs import Maker, Unchanged, only, ops


def always(graph: Graph, first: Node, second: Node) -> float:
    """Fusing always pays."""
    return 1.0


def bsconv(maker: Maker, x: Value, channels: int, *, between: str = "", stride: int = 1) -> Value:
    """BSConv-U: pointwise with a bias, depthwise with a bias."""
    y = maker.conv(x, channels, 1, bias=True)
    if between:
        y = maker.node(between, y)
    return maker.conv(y, channels, 3, groups=channels, bias=True, stride=stride)


def separable(maker: Maker, x: Value, channels: int) -> Value:
    """MobileNet's block."""
    inputs = x.shape[1]
    y = maker.node("relu", maker.conv(x, inputs, 3, groups=inputs, bias=True))
    return maker.node("relu", maker.conv(y, channels, 1, bias=True))


@pytest.mark.parametrize("between", ["", "relu", "sigmoid"])
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_then_depthwise(between: str, stride: int) -> None:
    """Borders too: sigmoid(bias) is far from the zeros that pad the map."""
    maker = Maker()
    y = bsconv(maker, maker.input(2, 5, 7, 6), 6, between=between, stride=stride)
    graph = maker.done(maker.node("relu", y))
    with Unchanged(graph):
        fuse_epilogue(graph)
        assert fuse_pairs(graph, always) == 1
    assert ops(graph) == ["conv_pair"]
    names = {
        op for op in ("conv2d0", "conv2d1", "conv2d2") if op in only(graph, "conv_pair").source
    }
    assert len(names) == 2


def test_depthwise_then_pointwise_with_a_residual() -> None:
    maker = Maker()
    x = maker.input(1, 6, 7, 5)
    y = maker.conv(maker.conv(x, 6, 3, groups=6, bias=True), 6, 1, bias=True)
    graph = maker.done(maker.node("add", y, x))
    with Unchanged(graph):
        fuse_epilogue(graph)
        assert fuse_pairs(graph, always) == 1
    pair = only(graph, "conv_pair")
    assert pair.inputs[-1] is x
    first, second = halves(pair)
    assert first.attrs["groups"] == 6
    assert second.attrs["has_residual"]


def test_without_a_cost_model_nothing_is_fused() -> None:
    maker = Maker()
    graph = maker.done(bsconv(maker, maker.input(1, 5, 7, 6), 6))
    assert fuse_pairs(graph) == 0
    assert fuse_pairs(graph, lambda graph, first, second: 0.0) == 0
    assert ops(graph) == ["conv2d", "conv2d"]


@pytest.mark.parametrize(
    ("gains", "fused"), [((2.0, 1.0), 0), ((1.0, 2.0), 1), ((0.0, -1.0), None)]
)
def test_the_middle_of_three(gains: tuple[float, float], fused: int | None) -> None:
    """It goes with the neighbour that saves more."""
    maker = Maker()
    y = maker.conv(maker.input(1, 5, 6, 6), 8, 1)
    y = maker.conv(y, 8, 3, groups=8)
    graph = maker.done(maker.conv(y, 5, 1))
    saved = dict(zip(graph.nodes, gains, strict=False))
    with Unchanged(graph):
        assert fuse_pairs(graph, lambda _, first, second: saved[first]) == (fused is not None)
    places = [i for i, node in enumerate(graph.nodes) if is_pair(node)]
    assert places == ([] if fused is None else [fused])


def test_chains_are_matched_best() -> None:
    """Against all matchings."""
    rng = np.random.default_rng(0)
    for length in range(8):
        gains = [float(g) for g in rng.integers(-2, 9, length)]
        every = [
            chosen
            for count in range(length + 1)
            for chosen in itertools.combinations(range(length), count)
            if all(b - a > 1 for a, b in itertools.pairwise(chosen))
        ]
        best = max(sum(gains[i] for i in chosen) for chosen in every)
        found = best_matching(gains)
        assert tuple(found) in every
        assert sum(gains[i] for i in found) == best


def test_a_long_chain_keeps_its_values() -> None:
    maker = Maker()
    y = maker.input(1, 6, 9, 8)
    for _ in range(3):
        y = separable(maker, y, 6)
    graph = maker.done(y)
    with Unchanged(graph):
        fuse_epilogue(graph)
        assert len(candidates(graph)) == 5
        assert fuse_pairs(graph, always) == 3
    assert ops(graph) == ["conv_pair"] * 3


def pointwise(maker: Maker, **attrs: Any) -> tuple[Node, Node]:
    """A pointwise convolution with these attributes, and a depthwise one behind it."""
    x = maker.input(1, 8, 6, 6)
    y = maker.conv(x, 8, 1)
    z = maker.conv(y, 8, 3, groups=8)
    maker.graph.nodes[0].attrs.update(attrs)
    maker.done(z)
    return maker.graph.nodes[0], maker.graph.nodes[1]


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"stride": (2, 2)}, "skips or pads"),
        ({"padding": (1, 1, 1, 1)}, "skips or pads"),
        ({"padding": (-1, 0, 0, 0)}, "is cut"),
        ({"input_stride": (2, 2)}, "transposed"),
        ({"depth": object()}, "of volumes"),
        ({"input_shuffle": 2}, "shuffled"),
        ({"has_residual": True}, "is added behind"),
    ],
)
def test_rules_say_why_not(attrs: dict[str, Any], reason: str) -> None:
    first, second = pointwise(Maker(), **attrs)
    if "has_residual" in attrs:
        first.inputs.append(first.inputs[0])
    said = pointwise_depthwise.mismatch(first, second)
    assert said is not None
    assert reason in said


def test_the_other_rule_refuses() -> None:
    first, second = pointwise(Maker())
    assert pointwise_depthwise.mismatch(first, second) is None
    assert "not depthwise" in str(depthwise_pointwise.mismatch(first, second))


def grouped(maker: Maker, x: Value) -> Value:
    return maker.conv(maker.conv(x, 8, 1, groups=2), 8, 3, groups=8)


def multiplied(maker: Maker, x: Value) -> Value:
    return maker.conv(maker.conv(x, 8, 1), 16, 3, groups=8)


def at_run_time(maker: Maker, x: Value) -> Value:
    weight = maker.input(8, 8, 1, 1, name="weight")
    return maker.conv(maker.conv(x, 8, 1, weight=weight), 8, 3, groups=8)


def dense(maker: Maker, x: Value) -> Value:
    return maker.conv(maker.conv(x, 8, 3), 8, 3, groups=8)


def pooled(maker: Maker, x: Value) -> Value:
    return maker.conv(maker.pool(maker.conv(x, 8, 1)), 8, 3, groups=8)


@pytest.mark.parametrize("net", [grouped, multiplied, at_run_time, dense, pooled])
def test_other_pairs_are_left(net: Callable[[Maker, Value], Value]) -> None:
    maker = Maker()
    graph = maker.done(net(maker, maker.input(1, 8, 6, 6)))
    assert candidates(graph) == {}
    assert fuse_pairs(graph, always) == 0


def test_what_others_read_is_left() -> None:
    for output in (True, False):
        maker = Maker()
        y = maker.conv(maker.input(1, 8, 6, 6), 8, 1)
        z = maker.conv(y, 8, 3, groups=8)
        graph = maker.done(y, z) if output else maker.done(maker.node("multiply", z, y))
        assert fuse_pairs(graph, always) == 0
    maker = Maker()
    y = maker.conv(maker.input(1, 8, 6, 6), 8, 1)
    graph = maker.done(maker.node("add", maker.conv(y, 8, 3, groups=8), y))
    fuse_epilogue(graph)
    assert fuse_pairs(graph, always) == 0


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_layouts_around_pairs(lanes: int) -> None:
    """No copies between; only a depthwise first half makes its input carry a halo."""
    maker = Maker()
    x = maker.conv(maker.input(1, 3, 9, 9), 20)
    y = bsconv(maker, x, 20)
    z = separable(maker, y, 24)
    graph = maker.done(maker.conv(z, 8, 1))
    with Unchanged(graph):
        fuse_epilogue(graph)
        fuse_pairs(graph, always)
        plan = choose_layouts(graph, lanes)
    assert ops(graph) == ["conv2d", "conv_pair", "conv_pair", "conv2d", "copy"]
    first, second = (n for n in graph.nodes if is_pair(n))
    assert not any(plan.layouts[first.inputs[0]].halo)
    assert plan.layouts[second.inputs[0]].halo[:2] == (1, 1)
