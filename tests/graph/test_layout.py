"""The layout pass: no copy that can be avoided, halos as wide as paddings, plain outputs."""

from __future__ import annotations

from typing import Any

import pytest

from edgeconv.graph.depthwise_layout import accepts
from edgeconv.graph.ir import Graph, Value
from edgeconv.graph.layout import block_for, choose_layouts
from edgeconv.graph.pipeline import optimise
from edgeconv.graph.plan import Plan
from edgeconv.layout import PLAIN, Layout
from edgeconv.workload import Conv2d
from tests.graph.graphs import Maker, Unchanged, ops

LANES = [4, 8, 16]


def planned(graph: Graph, lanes: int) -> Plan:
    """The layouts after all passes; the graph still computes the same, outputs are plain."""
    with Unchanged(graph):
        optimise(graph)
        plan = choose_layouts(graph, lanes)
    for value in graph.outputs:
        assert plan.layouts[value].is_plain
    roots = [plan.root(v) for v in graph.outputs]
    assert len(set(roots)) == len(roots)
    made = {v for n in graph.nodes for v in n.outputs}
    assert all(r in made for r in roots)
    for node in graph.nodes:
        for value in (*node.inputs, *node.outputs):
            assert value in plan.layouts
    return plan


@pytest.mark.parametrize("lanes", LANES)
def test_no_copy_between_convolutions(lanes: int) -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 3, 9, 9), 20)
    y = maker.node("relu", y)
    y = maker.conv(maker.conv(y, 33, 5), 16, 1)
    graph = maker.done(y)
    planned(graph, lanes)
    # the input is read as it lies; one copy makes the output row-major
    assert ops(graph) == ["conv2d", "conv2d", "conv2d", "copy"]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("pool", ["max_pool2d", "avg_pool2d"])
def test_no_copy_around_pools(lanes: int, pool: str) -> None:
    maker = Maker()
    y = maker.conv(maker.pool(maker.conv(maker.input(1, 3, 9, 9), 20), pool), 20)
    graph = maker.done(y)
    plan = planned(graph, lanes)
    assert ops(graph) == ["conv2d", pool, "conv2d", "copy"]
    blocks = [plan.layouts[n.output].block for n in graph.nodes[:3]]
    assert blocks == [block_for(20, lanes)] * 3


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("op", ["add", "multiply", "concat"])
def test_no_copy_around_joins(lanes: int, op: str) -> None:
    maker = Maker()
    x = maker.conv(maker.input(1, 3, 9, 9), 32)
    a, b = maker.conv(x, 32), maker.conv(x, 32, 1)
    joined = maker.node(
        op, maker.node("relu", a), maker.node("tanh", b), **({"axis": 1} if op == "concat" else {})
    )
    graph = maker.done(maker.conv(joined, 16))
    planned(graph, lanes)
    assert ops(graph).count("copy") == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_layer_reads_nchw(channels: int) -> None:
    maker = Maker()
    x = maker.input(1, channels, 9, 9)
    graph = maker.done(maker.conv(x, 32, 1))
    planned(graph, 16)
    assert graph.nodes[0].op == "conv2d"  # the input itself, without any copy
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, channels, 9, 9), 32, 3))
    plan = planned(graph, 16)
    assert graph.nodes[0].op == "conv2d"  # it pads on its own
    assert plan.layouts[graph.inputs[0]] == PLAIN


def test_a_narrow_map_of_few_channels_gets_a_halo() -> None:
    """Tiles of a single row would be too small."""
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 3, 5, 5), 32, 3))
    plan = planned(graph, 16)
    assert plan.layouts[graph.nodes[0].output] == Layout(1, (1, 1, 1, 1))


def test_halos_are_the_widest_padding() -> None:
    maker = Maker()
    y = maker.conv(maker.input(1, 3, 9, 9), 16)
    paddings = ((1, 0, 2, 3), (0, 2, 0, 1), (0, 0, 0, 0))
    readers = [maker.conv(y, 16, 3, padding=p) for p in paddings]
    graph = maker.done(*readers)
    plan = planned(graph, 16)
    assert plan.layouts[graph.nodes[0].output] == Layout(16, (1, 2, 2, 3))
    assert plan.layouts[graph.nodes[1].output].halo == (0, 0, 0, 0)


@pytest.mark.parametrize(("width", "right"), [(61, 1), (62, 2), (63, 1), (30, 2), (14, 2), (13, 1)])
def test_rows_do_not_lie_a_power_of_two_apart(width: int, right: int) -> None:
    """64, 32 and 16 pixels of 16 channels are whole kibibytes."""
    maker = Maker()
    y = maker.conv(maker.input(1, 3, 9, width), 16)
    graph = maker.done(maker.conv(y, 16, 3))
    plan = planned(graph, 16)
    assert plan.layouts[graph.nodes[0].output].halo == (1, 1, 1, right)


def test_graph_inputs_never_get_a_halo() -> None:
    maker = Maker()
    x = maker.input(1, 32, 9, 9)
    graph = maker.done(maker.conv(x, 16), maker.conv(x, 16, padding=(2, 2, 2, 2)))
    plan = planned(graph, 16)
    assert plan.layouts[x] == PLAIN
    assert ops(graph).count("copy") == 1 + 2  # the input is copied once for both
    assert plan.layouts[graph.nodes[0].output] == Layout(16, (2, 2, 2, 2))


def test_flattening_costs_no_copy() -> None:
    maker = Maker()
    y = maker.node(
        "reduce_mean", maker.conv(maker.input(1, 3, 9, 9), 20), axes=(2, 3), keepdims=True
    )
    flat = maker.node("reshape", y, shape=(1, 20))
    dense = maker.node("dense", flat, maker.constant(10, 20), has_bias=False)
    graph = maker.done(maker.node("softmax", dense, axis=1))
    plan = planned(graph, 16)
    kernels = [n.op for n in graph.nodes if n.output not in plan.aliases]
    assert kernels == ["conv2d", "reduce_mean", "conv2d", "softmax"]


def test_rows_of_a_dense_layer_are_pixels() -> None:
    maker = Maker()
    x = maker.input(5, 20)
    graph = maker.done(maker.node("dense", x, maker.constant(10, 20), has_bias=False))
    plan = planned(graph, 16)
    kernels = [n.op for n in graph.nodes if n.output not in plan.aliases]
    assert kernels[0] == "conv2d"


def test_outputs_are_storage_of_their_own() -> None:
    maker = Maker()
    x = maker.input(2, 6)
    y = maker.node("relu", x)
    flat = maker.node("reshape", y, shape=(12,))
    graph = maker.done(y, flat, maker.node("reshape", x, shape=(3, 4)))
    planned(graph, 16)


def test_outputs_that_are_inputs_or_constants() -> None:
    maker = Maker()
    x, c = maker.input(2, 6), maker.constant(3)
    graph = maker.done(x, c, x)
    planned(graph, 16)
    assert ops(graph) == ["copy"] * 3


def test_block_sizes() -> None:
    assert [block_for(c, 16) for c in (1, 3, 4, 5, 8, 9, 16, 17, 100)] == [
        4, 4, 4, 8, 8, 16, 16, 16, 16,
    ]  # fmt: skip
    assert block_for(100, 4) == 4


def depthwise(maker: Maker, x: Value, **attrs: Any) -> Value:
    """A 3x3 depthwise convolution."""
    return maker.conv(x, x.shape[1], groups=x.shape[1], **attrs)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("channels", [2, 20, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_lone_depthwise_convolution_needs_no_copy(lanes: int, channels: int, stride: int) -> None:
    maker = Maker()
    graph = maker.done(depthwise(maker, maker.input(1, channels, 9, 9), stride=stride))
    plan = planned(graph, lanes)
    assert ops(graph) == ["conv2d"]
    assert plan.layouts[graph.inputs[0]] == PLAIN


@pytest.mark.parametrize("size", [9, 19, 32])
def test_a_chain_of_depthwise_convolutions_needs_no_copy(size: int) -> None:
    """Maps whose rows fill vectors stay rows throughout; others are transposed at the ends."""
    maker = Maker()
    y = maker.input(1, 32, size, size)
    for _ in range(3):
        y = depthwise(maker, y)
    graph = maker.done(y)
    plan = planned(graph, 16)
    assert ops(graph) == ["conv2d"] * 3
    blocks = [plan.layouts[n.output].block for n in graph.nodes]
    assert blocks == ([0, 0, 0] if size == 32 else [16, 16, 0])


def test_depthwise_next_to_pointwise_works_in_its_blocks() -> None:
    maker = Maker()
    y = depthwise(maker, maker.input(1, 32, 32, 32))
    y = depthwise(maker, maker.conv(y, 32, 1))
    graph = maker.done(y)
    plan = planned(graph, 16)
    assert ops(graph) == ["conv2d"] * 3
    assert [plan.layouts[n.output].block for n in graph.nodes] == [16, 16, 0]


def test_depthwise_of_one_pixel_or_a_shuffle_keeps_its_copies() -> None:
    assert not accepts(Conv2d(1, 32, 1, 1, 32, (1, 1), groups=32), 0, 0, 16)
    shuffled = Conv2d(1, 32, 8, 8, 32, (1, 1), groups=32, input_shuffle=2)
    assert not accepts(shuffled, 0, 0, 16)
    assert not accepts(Conv2d(1, 32, 8, 8, 32, (1, 1), (1, 3), groups=32), 0, 0, 16)
    assert not accepts(Conv2d(1, 32, 8, 8, 64, (1, 1), groups=32), 0, 16, 16)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_lone_pointwise_convolution_needs_no_copy(lanes: int, groups: int) -> None:
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 36, 20, 20), 30, 1, groups=groups))
    plan = planned(graph, lanes)
    assert ops(graph) == ["conv2d"]
    assert plan.layouts[graph.outputs[0]] == PLAIN


def test_a_lone_strided_pointwise_convolution_reads_only_its_pixels() -> None:
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 36, 21, 40), 30, 1, stride=3))
    planned(graph, 16)
    assert ops(graph) == ["slice", "conv2d"]
    assert graph.nodes[0].output.shape == (1, 36, 7, 14)
    assert graph.nodes[1].attrs["stride"] == (1, 1)


@pytest.mark.parametrize("groups", [1, 3])
def test_between_rows_every_second_column_needs_no_copy(groups: int) -> None:
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 36, 21, 40), 30, 1, stride=2, groups=groups))
    plan = planned(graph, 16)
    assert ops(graph) == ["conv2d"]
    assert plan.layouts[graph.outputs[0]] == PLAIN


@pytest.mark.parametrize(
    ("lanes", "wanted"), [(4, ["copy", "conv2d", "copy"]), (16, ["conv2d", "copy"])]
)
def test_many_channels_on_a_small_map_are_worth_copies(lanes: int, wanted: list[str]) -> None:
    """Wide machines broadcast pixels from planes as well as from blocks."""
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 512, 7, 7), 512, 1))
    planned(graph, lanes)
    assert ops(graph) == wanted


def test_pointwise_before_other_convolutions_makes_their_blocks() -> None:
    maker = Maker()
    y = maker.conv(maker.conv(maker.input(1, 36, 20, 20), 32, 1), 32)
    graph = maker.done(y)
    plan = planned(graph, 16)
    assert ops(graph) == ["conv2d", "conv2d", "copy"]
    assert plan.layouts[graph.nodes[0].output].block == 16
