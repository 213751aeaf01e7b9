"""Folding of per-channel multiplies and adds: into the convolution alone, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.graph.fold_scale import fold_scale
from tests.graph.graphs import Maker, Unchanged, only, ops


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1, 1, 1), (), (1,), (1, 1, 1, 1)])
@pytest.mark.parametrize("op", ["multiply", "add"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_constants_a_channel_are_folded(
    shape: tuple[int, ...], op: str, bias: bool, swap: bool
) -> None:
    maker = Maker()
    y, c = maker.conv(maker.input(2, 4, 5, 5), 6, bias=bias), maker.constant(*shape)
    graph = maker.done(maker.node(op, *((c, y) if swap else (y, c))))
    with Unchanged(graph):
        assert fold_scale(graph) == 1
    assert ops(graph) == ["conv2d"]
    assert only(graph, "conv2d").source == ("conv2d0", f"{op}1")


def test_batch_norm_behind_batch_norm() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6, groups=2, bias=True)
    for op in ("multiply", "add", "multiply", "add"):
        y = maker.node(op, y, maker.constant(6, 1, 1))
    graph = maker.done(y)
    with Unchanged(graph):
        assert fold_scale(graph) == 4
    assert ops(graph) == ["conv2d"]


@pytest.mark.parametrize("bias", [False, True])
def test_dense_layers_are_folded(bias: bool) -> None:
    maker = Maker()
    x, weight = maker.input(3, 5), maker.constant(7, 5)
    y = maker.node("dense", x, weight, *([maker.constant(7)] if bias else []), has_bias=bias)
    y = maker.node("add", maker.node("multiply", y, maker.constant(7)), maker.constant(1, 7))
    graph = maker.done(y)
    with Unchanged(graph):
        assert fold_scale(graph) == 2
    assert ops(graph) == ["dense"]


def test_shared_weights_stay_as_they_are() -> None:
    maker = Maker()
    x, weight = maker.input(1, 6, 5, 5), maker.constant(6, 6, 3, 3)
    a, b = maker.conv(x, 6, weight=weight), maker.conv(x, 6, weight=weight)
    graph = maker.done(maker.node("multiply", a, maker.constant(6, 1, 1)), b)
    with Unchanged(graph):
        assert fold_scale(graph) == 1


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 5), (6, 5, 5), (1, 6, 5, 5), (2, 1, 1, 1)])
def test_other_shapes_are_left(shape: tuple[int, ...]) -> None:
    maker = Maker()
    y = maker.conv(maker.input(2, 4, 5, 5), 6)
    graph = maker.done(maker.node("multiply", y, maker.constant(*shape)))
    assert fold_scale(graph) == 0


def test_a_constant_that_widens_one_channel_is_left() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 1)
    graph = maker.done(maker.node("add", y, maker.constant(6, 1, 1)))
    assert fold_scale(graph) == 0


def test_values_used_twice_are_left() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    scaled = maker.node("multiply", y, maker.constant(6, 1, 1))
    assert fold_scale(maker.done(maker.node("add", scaled, y))) == 0


def test_outputs_of_the_graph_are_left() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(y, maker.node("multiply", y, maker.constant(6, 1, 1)))
    assert fold_scale(graph) == 0


def test_what_is_not_constant_is_left() -> None:
    maker = Maker()
    x = maker.input(1, 4, 5, 5)
    graph = maker.done(maker.node("multiply", maker.conv(x, 6), maker.input(1, 6, 1, 1, name="s")))
    assert fold_scale(graph) == 0
    maker = Maker()
    x, weight = maker.input(1, 4, 5, 5), maker.input(6, 4, 3, 3, name="w")
    y = maker.conv(x, 6, weight=weight)
    assert fold_scale(maker.done(maker.node("multiply", y, maker.constant(6, 1, 1)))) == 0


def test_other_producers_are_left() -> None:
    maker = Maker()
    y = maker.node("relu", maker.input(1, 6, 5, 5))
    assert fold_scale(maker.done(maker.node("multiply", y, maker.constant(6, 1, 1)))) == 0


def test_extreme_scales_are_folded_in_double_precision() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6, bias=True)
    for factor in (1e30, 1e-30):
        y = maker.node("multiply", y, maker.graph.constant("c", np.float32(factor)))
    graph = maker.done(y)
    fold_scale(graph)
    assert ops(graph) == ["conv2d"]
    assert np.isfinite(only(graph, "conv2d").inputs[1].data).all()  # type: ignore[arg-type]
