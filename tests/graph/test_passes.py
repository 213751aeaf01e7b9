"""recognise_activation, simplify, dense_to_conv, fuse_injective, fold_shuffle, and the pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.graph.dense_to_conv import dense_to_conv
from edgeconv.graph.fold_shuffle import fold_shuffle
from edgeconv.graph.fuse_injective import MAX_STEPS, fuse_injective
from edgeconv.graph.pipeline import PASSES, optimise
from edgeconv.graph.recognise_activation import recognise_activation
from edgeconv.graph.simplify import simplify
from tests.graph.graphs import Maker, Unchanged, only, ops

# recognise_activation

GATES = [("sigmoid", {}, "silu"), ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5}, "hard_swish")]


@pytest.mark.parametrize(("gate", "attrs", "activation"), GATES)
@pytest.mark.parametrize("swap", [False, True])
def test_x_times_its_gate(gate: str, attrs: dict[str, float], activation: str, swap: bool) -> None:
    maker = Maker()
    x = maker.input(1, 4, 5, 5)
    g = maker.node(gate, x, **attrs)
    graph = maker.done(maker.node("multiply", *((g, x) if swap else (x, g))))
    with Unchanged(graph):
        assert recognise_activation(graph) == 1
    assert ops(graph) == [activation]


def test_gates_others_need_stay() -> None:
    maker = Maker()
    x = maker.input(1, 4, 5, 5)
    g = maker.node("sigmoid", x)
    graph = maker.done(maker.node("multiply", x, g), g)
    with Unchanged(graph):
        assert recognise_activation(graph) == 1
    assert ops(graph) == ["sigmoid", "silu"]


def test_other_products_stay() -> None:
    maker = Maker()
    x, y = maker.input(1, 4, 5, 5), maker.input(1, 4, 5, 5, name="y")
    a = maker.node("multiply", x, maker.node("sigmoid", y))
    b = maker.node("multiply", x, maker.node("hard_sigmoid", x, alpha=0.2, beta=0.5))
    c = maker.node("multiply", x, maker.node("tanh", x))
    d = maker.node("add", x, maker.node("sigmoid", x))
    graph = maker.done(a, b, c, d)
    with Unchanged(graph):
        assert recognise_activation(graph) == 0


# simplify


def test_chains_of_reshapes_are_one() -> None:
    maker = Maker()
    x = maker.input(2, 6)
    y = maker.node("reshape", maker.node("reshape", x, shape=(3, 4)), shape=(12,))
    graph = maker.done(maker.node("softmax", y, axis=0))
    with Unchanged(graph):
        assert simplify(graph) >= 1
    assert ops(graph) == ["reshape", "softmax"]


def test_reshapes_to_the_same_shape_vanish() -> None:
    maker = Maker()
    x = maker.input(2, 6)
    y = maker.node("reshape", maker.node("reshape", x, shape=(3, 4)), shape=(2, 6))
    graph = maker.done(maker.node("softmax", y, axis=0))
    with Unchanged(graph):
        simplify(graph)
    assert ops(graph) == ["softmax"]


def test_reshapes_that_are_outputs_stay() -> None:
    maker = Maker()
    x = maker.input(2, 6)
    same = maker.node("reshape", x, shape=(2, 6))
    wide = maker.node("reshape", x, shape=(3, 4))
    graph = maker.done(same, wide, maker.node("reshape", wide, shape=(12,)))
    with Unchanged(graph):
        simplify(graph)
    assert ops(graph).count("reshape") == 3


def test_activations_move_before_reshapes() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 4, 5, 5), 6)
    graph = maker.done(maker.node("relu", maker.node("reshape", y, shape=(1, 150))))
    with Unchanged(graph):
        assert simplify(graph) == 1
    assert ops(graph) == ["conv2d", "relu", "reshape"]


def test_reshapes_with_other_readers_stay() -> None:
    maker = Maker()
    y = maker.node("reshape", maker.input(2, 6), shape=(3, 4))
    graph = maker.done(maker.node("multiply", maker.node("relu", y), y))
    with Unchanged(graph):
        assert simplify(graph) == 0
    maker = Maker()
    y = maker.node("reshape", maker.input(2, 6), shape=(3, 4))
    graph = maker.done(maker.node("relu", y), y)
    with Unchanged(graph):
        assert simplify(graph) == 0


# dense_to_conv


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("bias", [False, True])
def test_dense_layers_become_convolutions(rows: int, bias: bool) -> None:
    maker = Maker()
    x, weight = maker.input(rows, 5), maker.constant(9, 5)
    y = maker.node("dense", x, weight, *([maker.constant(9)] if bias else []), has_bias=bias)
    graph = maker.done(y)
    with Unchanged(graph):
        assert dense_to_conv(graph) == 1
    first, middle, last = ops(graph)
    assert (first, last) == (("reshape", "reshape") if rows == 1 else ("pixels", "rows"))
    assert middle == "conv2d"
    assert only(graph, "conv2d").attrs["has_bias"] is bias


def test_dense_layers_with_computed_weights_stay() -> None:
    maker = Maker()
    x, weight = maker.input(2, 5), maker.input(9, 5, name="w")
    graph = maker.done(maker.node("dense", x, weight, has_bias=False))
    assert dense_to_conv(graph) == 0
    maker = Maker()
    x, bias = maker.input(2, 5), maker.input(9, name="b")
    graph = maker.done(maker.node("dense", x, maker.constant(9, 5), bias, has_bias=True))
    assert dense_to_conv(graph) == 0


def test_dense_layers_of_other_types_stay() -> None:
    maker = Maker()
    weight = maker.graph.constant("w", np.ones((9, 5)))
    graph = maker.done(maker.node("dense", maker.input(2, 5, dtype="float64"), weight))
    assert dense_to_conv(graph) == 0


# fuse_injective


def test_elementwise_chains_are_one_kernel() -> None:
    maker = Maker()
    x, y = maker.input(1, 4, 5, 5), maker.input(1, 4, 1, 1, name="y")
    z = maker.node("multiply", maker.node("add", maker.node("relu", x), y), x)
    graph = maker.done(maker.node("subtract", maker.node("tanh", z), maker.constant(4, 1, 1)))
    with Unchanged(graph):
        assert fuse_injective(graph) == 4
    assert ops(graph) == ["fused"]
    assert len(graph.nodes[0].inputs) == 3  # x once
    assert graph.nodes[0].attrs["body"].title == "relu+add+multiply+tanh+subtract"


def test_a_value_squared_is_fused() -> None:
    maker = Maker()
    y = maker.node("relu", maker.input(1, 4, 5, 5))
    graph = maker.done(maker.node("multiply", y, y))
    with Unchanged(graph):
        assert fuse_injective(graph) == 1


def test_long_chains_are_cut() -> None:
    maker = Maker()
    y = maker.input(1, 4, 5, 5)
    for _ in range(2 * MAX_STEPS + 3):
        y = maker.node("softsign", y)
    graph = maker.done(y)
    with Unchanged(graph):
        fuse_injective(graph)
    assert all(len(n.attrs["body"].steps) <= MAX_STEPS for n in graph.nodes if n.op == "fused")
    assert len(graph.nodes) == 3


def test_values_with_two_readers_are_not_fused() -> None:
    maker = Maker()
    y = maker.node("relu", maker.input(1, 4, 5, 5))
    graph = maker.done(maker.node("tanh", y), maker.node("sigmoid", y))
    with Unchanged(graph):
        assert fuse_injective(graph) == 0
    maker = Maker()
    y = maker.node("relu", maker.input(1, 4, 5, 5))
    graph = maker.done(maker.node("tanh", y), y)
    with Unchanged(graph):
        assert fuse_injective(graph) == 0


@pytest.mark.parametrize("op", ["transpose", "softmax", "reshape"])
def test_other_operators_are_not_fused(op: str) -> None:
    attrs = {
        "transpose": {"perm": (0, 2, 3, 1)},
        "softmax": {"axis": 1},
        "reshape": {"shape": (1, 100)},
    }[op]
    maker = Maker()
    y = maker.node(op, maker.node("relu", maker.input(1, 4, 5, 5)), **attrs)
    graph = maker.done(maker.node("tanh", y))
    with Unchanged(graph):
        assert fuse_injective(graph) == 0


# fold_shuffle


def shuffle(maker: Maker, x: object, groups: int, *, flat: bool = False) -> object:
    """reshape, transpose, reshape, as exporters write it."""
    n, c, h, w = x.shape  # type: ignore[attr-defined]
    spatial = (h * w,) if flat else (h, w)
    wide = maker.node("reshape", x, shape=(n, groups, c // groups, *spatial))  # type: ignore[arg-type]
    perm = (0, 2, 1, 3) if flat else (0, 2, 1, 3, 4)
    turned = maker.node("transpose", wide, perm=perm)
    return maker.node("reshape", turned, shape=(n, c, h, w))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 4), (12, 12), (6, 2)])
def test_dense_convolutions_absorb_shuffles(channels: int, groups: int, flat: bool) -> None:
    maker = Maker()
    x = shuffle(maker, maker.input(2, channels, 3, 4), groups, flat=flat)
    graph = maker.done(maker.conv(x, 5, bias=True))  # type: ignore[arg-type]
    with Unchanged(graph):
        assert fold_shuffle(graph) == 2
    assert ops(graph) == ["conv2d"]


def test_shuffles_move_behind_depthwise_convolutions() -> None:
    maker = Maker()
    x = shuffle(maker, maker.input(1, 12, 4, 4), 3)
    y = maker.conv(x, 12, groups=12, bias=True)  # type: ignore[arg-type]
    graph = maker.done(maker.conv(y, 7, 1))
    with Unchanged(graph):
        assert fold_shuffle(graph) == 3
    assert ops(graph) == ["conv2d", "conv2d"]


@pytest.mark.parametrize("width", [2, 8, 10])
def test_grouped_convolutions_read_shuffled(width: int) -> None:
    maker = Maker()
    x = shuffle(maker, maker.input(1, 3 * width, 4, 4), width)
    graph = maker.done(maker.conv(x, 9, groups=3))  # type: ignore[arg-type]
    with Unchanged(graph):
        fold_shuffle(graph)
    absorbed = only(graph, "conv2d").attrs.get("input_shuffle", 1) == width
    assert absorbed == (width >= 8)
    assert ("channel_shuffle" in ops(graph)) != absorbed


def test_shuffles_others_need_stay() -> None:
    maker = Maker()
    x = shuffle(maker, maker.input(1, 12, 4, 4), 3)
    graph = maker.done(x, maker.conv(x, 5))  # type: ignore[arg-type]
    with Unchanged(graph):
        fold_shuffle(graph)
    assert "channel_shuffle" in ops(graph)


def test_a_shuffled_residual_stays() -> None:
    maker = Maker()
    x = maker.input(1, 12, 4, 4)
    r = shuffle(maker, x, 3)
    y = maker.conv(x, 12)
    node = maker.graph.nodes[-1]
    node.inputs.append(r)  # type: ignore[arg-type]
    node.attrs["has_residual"] = True
    graph = maker.done(y)
    with Unchanged(graph):
        fold_shuffle(graph)
    assert ops(graph) == ["channel_shuffle", "conv2d"]


@pytest.mark.parametrize("perm", [(0, 1, 2, 3, 4), (0, 2, 1, 4, 3), (1, 2, 0, 3, 4)])
def test_other_transposes_are_no_shuffles(perm: tuple[int, ...]) -> None:
    maker = Maker()
    wide = maker.node("reshape", maker.input(1, 16, 4, 4), shape=(1, 4, 4, 4, 4))
    y = maker.node("reshape", maker.node("transpose", wide, perm=perm), shape=(1, 16, 4, 4))
    graph = maker.done(maker.conv(y, 5))
    with Unchanged(graph):
        assert fold_shuffle(graph) == 0


# the pipeline


def test_a_block_becomes_two_convolutions() -> None:
    maker = Maker()
    x = maker.input(1, 8, 6, 6)
    y = maker.conv(x, 8)
    y = maker.node(
        "add", maker.node("multiply", y, maker.constant(8, 1, 1)), maker.constant(8, 1, 1)
    )
    y = maker.node("multiply", y, maker.node("sigmoid", y))
    z = maker.node("multiply", maker.conv(y, 8), maker.constant(1, 8, 1, 1))
    z = maker.node("clip", maker.node("add", z, x), low=0.0, high=6.0)
    graph = maker.done(z)
    with Unchanged(graph):
        fired = dict.fromkeys(title for title, _ in PASSES)
        assert [title for title, _ in optimise(graph)] == [title for title, _ in PASSES]
    assert fired
    assert ops(graph) == ["conv2d", "conv2d"]


def test_unused_nodes_are_pruned() -> None:
    maker = Maker()
    x = maker.input(1, 4, 5, 5)
    y = maker.node("relu", x)
    maker.conv(x, 7)
    graph = maker.done(y)
    with Unchanged(graph):
        optimise(graph)
    assert ops(graph) == ["relu"]
