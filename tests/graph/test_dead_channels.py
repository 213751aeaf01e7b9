"""Channels that need not be computed: which are dropped, where their constants go, what stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeconv.graph.dead_channels import remove_dead_channels
from edgeconv.graph.findings import findings
from edgeconv.graph.ir import Graph, Node, Value
from tests.graph.graphs import Maker, Unchanged, values

NO_PADDING = (0, 0, 0, 0)


class Deadly(Maker):
    """Makes convolutions with dead filters."""

    def zeros(self, value: Value, rows: Sequence[int] = (), columns: Sequence[int] = ()) -> Value:
        """A constant with some filters, and some inputs of all filters, set to zero."""
        assert value.data is not None
        value.data[list(rows)] = 0
        value.data[:, list(columns)] = 0
        return value

    def filters(self, x: Value, channels: int, kernel: int, dead: Sequence[int]) -> Value:
        """Weights with dead filters."""
        return self.zeros(self.constant(channels, x.shape[1], kernel, kernel), dead)


def widths(graph: Graph) -> list[int]:
    """Output channels of every convolution."""
    return [n.output.shape[1] for n in graph if n.op == "conv2d"]


def convolutions(graph: Graph) -> list[Node]:
    return [n for n in graph if n.op == "conv2d"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["", "relu", "sigmoid", "hard_swish"])
@pytest.mark.parametrize("last_bias", [False, True])
def test_constants_go_into_the_bias_of_readers(
    bias: bool, activation: str, last_bias: bool
) -> None:
    maker = Deadly()
    x = maker.input(2, 3, 7, 6)
    y = maker.conv(x, 8, bias=bias, weight=maker.filters(x, 8, 3, [1, 5, 6]))
    y = maker.node(activation, y) if activation else y
    graph = maker.done(maker.conv(y, 4, padding=NO_PADDING, bias=last_bias))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 3
    assert widths(graph) == [5, 4]
    assert convolutions(graph)[1].inputs[1].shape == (4, 5, 3, 3)


def test_padding_sees_a_constant_that_is_not_zero() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 7, 6)
    y = maker.conv(x, 8, bias=True, weight=maker.filters(x, 8, 3, [1, 5]))
    bias = convolutions(maker.graph)[0].inputs[2].data
    assert bias is not None
    bias[[1, 5]] = 2, -2  # ReLU makes the second one zero
    graph = maker.done(maker.conv(maker.node("relu", y), 4))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 1
    assert widths(graph) == [7, 4]


def test_through_depthwise_pools_and_means() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 9, 9)
    y = maker.conv(x, 6, weight=maker.filters(x, 6, 3, [0, 4]))
    y = maker.pool(maker.node("relu", y))
    y = maker.pool(maker.conv(y, 6, groups=6), "avg_pool2d")
    y = maker.node("clip", y, low=0.0, high=6.0)
    y = maker.node("reduce_mean", y, axes=(2, 3), keepdims=True)
    graph = maker.done(maker.conv(y, 5, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 2
    assert widths(graph) == [4, 4, 5]
    assert convolutions(graph)[1].attrs["groups"] == 4


def test_dead_depthwise_filters_take_what_they_read_along() -> None:
    maker = Deadly()
    y = maker.conv(maker.input(1, 3, 9, 9), 6, bias=True)
    weight = maker.zeros(maker.constant(6, 1, 3, 3), [2])
    y = maker.conv(y, 6, groups=6, bias=True, weight=weight)
    graph = maker.done(maker.conv(y, 5, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 1
    assert widths(graph) == [5, 5, 5]


@pytest.mark.parametrize("agree", [True, False])
def test_sums_lose_channels_that_all_terms_lack(agree: bool) -> None:
    maker = Deadly()
    x = maker.input(1, 3, 6, 6)
    a = maker.conv(x, 6, weight=maker.filters(x, 6, 3, [1, 3]))
    b = maker.conv(x, 6, weight=maker.filters(x, 6, 3, [3, 1] if agree else [3, 5]))
    graph = maker.done(maker.conv(maker.node("add", a, b), 5))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == (2 if agree else 1)


def test_residuals_of_convolutions() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 6, 6)
    a = maker.conv(x, 6, weight=maker.filters(x, 6, 3, [1, 3]))
    weight = maker.filters(a, 6, 3, [1, 3, 4])
    b = maker.node(
        "conv2d",
        *(a, weight, a),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
        has_residual=True,
        activation=("relu", ()),
    )
    graph = maker.done(maker.conv(b, 5))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 2
    assert widths(graph) == [4, 4, 5]


def test_channels_that_nobody_reads() -> None:
    maker = Deadly()
    y = maker.node("tanh", maker.conv(maker.input(1, 3, 6, 6), 6, bias=True))
    a = maker.conv(y, 4, weight=maker.zeros(maker.constant(4, 6, 3, 3), (), [0, 2, 3]))
    b = maker.conv(y, 4, weight=maker.zeros(maker.constant(4, 6, 3, 3), (), [0, 3, 5]))
    graph = maker.done(a, b)
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 2
    assert widths(graph) == [4, 4, 4]


def test_what_is_dead_behind_dead_filters() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 6, 6)
    y = maker.conv(x, 6, weight=maker.filters(x, 6, 3, [0]))
    weight = maker.constant(5, 6, 3, 3)
    assert weight.data is not None
    weight.data[2, 1:] = 0  # reads nothing but the dead channel
    graph = maker.done(maker.conv(maker.conv(y, 5, weight=weight), 4))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 2
    assert widths(graph) == [5, 4, 4]


def test_a_channel_is_left() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 6, 6)
    y = maker.conv(x, 6, bias=True, weight=maker.filters(x, 6, 3, range(6)))
    graph = maker.done(maker.conv(y, 4, 1))
    with Unchanged(graph):
        assert remove_dead_channels(graph) == 5
    assert widths(graph) == [1, 4]


def _grouped(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(y, 6, groups=2)]


def _multiplier(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(y, 12, groups=6)]


def _output(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(y, 4), y]


def _concatenated(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(maker.node("concat", y, y, axis=2), 4)]


def _joined_and_output(maker: Deadly, y: Value) -> list[Value]:
    joined = maker.node("concat", y, y, axis=1)
    return [maker.conv(joined, 4), joined]


def _shuffled(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(maker.node("channel_shuffle", y, groups=2), 4)]


def _added_to_an_input(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(maker.node("add", y, maker.input(*y.shape, name="z")), 4)]


def _not_constant_weights(maker: Deadly, y: Value) -> list[Value]:
    return [maker.conv(y, 4, weight=maker.input(4, 6, 3, 3, name="w"))]


@pytest.mark.parametrize(
    "behind",
    [
        _grouped,
        _multiplier,
        _output,
        _concatenated,
        _joined_and_output,
        _shuffled,
        _added_to_an_input,
        _not_constant_weights,
    ],
)
def test_left_alone(behind: object) -> None:
    """Channels somebody else sees, by their number."""
    assert callable(behind)
    maker = Deadly()
    x = maker.input(1, 3, 6, 6)
    y = maker.conv(x, 6, weight=maker.filters(x, 6, 3, [0, 3]))
    graph = maker.done(*behind(maker, y))
    before = str(graph)
    assert remove_dead_channels(graph) == 0
    assert str(graph) == before


def test_average_pools_that_count_padding_change_constants() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 6, 6)
    y = maker.conv(x, 6, bias=True, weight=maker.filters(x, 6, 3, [0, 3]))
    pool = dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), padding=(1, 1, 1, 1))
    y = maker.node("avg_pool2d", y, divisor="full", **pool)
    assert remove_dead_channels(maker.done(maker.conv(y, 4, 1))) == 0


def test_reported() -> None:
    maker = Deadly()
    x = maker.input(1, 3, 10, 10)
    y = maker.conv(x, 8, weight=maker.filters(x, 8, 3, [1, 5, 6]))
    graph = maker.done(maker.conv(y, 4, 1))
    before = values(graph)
    saved = 100 * 3 * (3 * 9 + 4) / 1e6
    (line,) = findings(graph)
    assert line == f"dead filters removed: 3 channels, {saved:,.1f} M multiply-adds"
    assert widths(graph) == [8, 4]
    np.testing.assert_array_equal(before[0], values(graph)[0])
