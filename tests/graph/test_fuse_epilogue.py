"""Fusion of residual adds and activations into convolutions."""

from __future__ import annotations

import pytest

from edgeconv.graph.fuse_epilogue import fuse_epilogue
from edgeconv.graph.layout import is_scheduled_conv
from tests.graph.graphs import Maker, Unchanged, only, ops


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("relu", {}),
        ("clip", {"low": 0.0, "high": 6.0}),
        ("leaky_relu", {"alpha": 0.1}),
        ("sigmoid", {}),
        ("silu", {}),
        ("hard_swish", {}),
        ("tanh", {}),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_activations(op: str, attrs: dict[str, float], bias: bool) -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6, bias=bias)
    graph = maker.done(maker.node(op, y, **attrs))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 1
    conv = only(graph, "conv2d")
    assert conv.attrs["activation"] == (op, tuple(sorted(attrs.items())))
    assert conv.source == ("conv2d0", f"{op}1")


@pytest.mark.parametrize("swap", [False, True])
def test_residual_then_activation(swap: bool) -> None:
    maker = Maker()
    x = maker.input(1, 6, 5, 5)
    y = maker.conv(x, 6, bias=True)
    total = maker.node("add", *((x, y) if swap else (y, x)))
    graph = maker.done(maker.node("relu", total))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 2
    conv = only(graph, "conv2d")
    assert conv.inputs[-1] is x
    assert is_scheduled_conv(conv)


def test_the_later_of_two_convolutions_takes_the_add() -> None:
    maker = Maker()
    x = maker.input(1, 6, 5, 5)
    a, b = maker.conv(x, 6), maker.conv(x, 6, 1)
    graph = maker.done(maker.node("add", a, b))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 1
    assert [bool(n.attrs.get("has_residual")) for n in graph.nodes] == [False, True]


def test_only_one_residual_and_one_activation() -> None:
    maker = Maker()
    x = maker.input(1, 6, 5, 5)
    y = maker.node("add", maker.node("add", maker.conv(x, 6), x), x)
    graph = maker.done(maker.node("sigmoid", maker.node("relu", y)))
    with Unchanged(graph):
        fuse_epilogue(graph)
    assert ops(graph) == ["conv2d", "add", "relu", "sigmoid"]
    maker = Maker()
    y = maker.conv(maker.input(1, 6, 5, 5), 6)
    graph = maker.done(maker.node("sigmoid", maker.node("relu", y)))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 1
    assert ops(graph) == ["conv2d", "sigmoid"]


def test_an_add_behind_an_activation_is_left() -> None:
    maker = Maker()
    x = maker.input(1, 6, 5, 5)
    graph = maker.done(maker.node("add", maker.node("relu", maker.conv(x, 6)), x))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 1
    assert ops(graph) == ["conv2d", "add"]


def test_a_residual_that_is_made_later_is_left() -> None:
    maker = Maker()
    x = maker.input(1, 6, 5, 5)
    y = maker.conv(x, 6)
    later = maker.node("softmax", maker.pool(x), axis=1)
    graph = maker.done(maker.node("add", y, later))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 0


def test_a_residual_that_depends_on_the_convolution_is_left() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 6, 5, 5), 6)
    graph = maker.done(maker.node("add", y, maker.node("softmax", y, axis=1)))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 0
    maker = Maker()
    y = maker.conv(maker.input(1, 6, 5, 5), 6)
    graph = maker.done(maker.node("add", y, y))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 0


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 6, 1, 1), (1, 6, 5, 1)])
def test_residuals_of_other_shapes_are_left(shape: tuple[int, ...]) -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(maker.node("add", y, maker.input(*shape, name="r")))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 0


def test_values_others_need_are_left() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(y, maker.node("relu", y))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 0
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(maker.node("multiply", maker.node("relu", y), y))
    with Unchanged(graph):
        assert fuse_epilogue(graph) == 0


def test_other_types_are_left() -> None:
    """A fused cast would give the convolution a result no schedule can make."""
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(maker.node("cast", y, to="int32"), maker.node("relu", y))
    assert fuse_epilogue(graph) == 0
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(maker.node("cast", y, to="int32"))
    assert fuse_epilogue(graph) == 0
