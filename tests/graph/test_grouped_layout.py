"""Which images stay row-major, for given costs of kernels."""

from __future__ import annotations

import pytest

from edgeconv.graph.grouped_layout import row_values
from edgeconv.graph.ir import Graph, Value
from edgeconv.graph.layout import choose_layouts
from edgeconv.graph.plan import Plan
from edgeconv.layout import PLAIN, Layout
from edgeconv.workload import ConvTask
from tests.graph.graphs import Maker, Unchanged, ops

LANES = 16


def cheap_rows(task: ConvTask) -> float:
    """Cycles of a machine that is fast along rows."""
    return 1.0 if task.data.block == task.out.block == 1 else 1e6


def costly_rows(task: ConvTask) -> float:
    """Cycles of one that is slow along rows, by more than copies cost."""
    return 1e6 if 1 in (task.data.block, task.out.block) else 1.0


def even(task: ConvTask) -> float:
    """Cycles where only copies matter."""
    return 100.0


def planned(graph: Graph, cost: object) -> tuple[Plan, frozenset[Value]]:
    """The layouts for a cost; the graph still computes the same."""
    with Unchanged(graph):
        rows = row_values(graph, LANES, cost)  # type: ignore[arg-type]
        plan = choose_layouts(graph, LANES, rows)
    return plan, rows


def chain() -> tuple[Graph, list[Value]]:
    """Three grouped convolutions, one elementwise operator."""
    maker = Maker()
    x = maker.input(1, 20, 9, 9)
    a = maker.conv(x, 20, groups=4)
    b = maker.conv(a, 20, groups=4)
    c = maker.node("tanh", b)
    return maker.done(maker.conv(c, 20, groups=4)), [x, a, b, c]


@pytest.mark.parametrize("cost", [cheap_rows, even])
def test_chains_need_no_copy(cost: object) -> None:
    graph, (x, a, b, c) = chain()
    plan, rows = planned(graph, cost)
    assert ops(graph) == ["conv2d", "conv2d", "tanh", "conv2d"]
    assert rows >= {x, a, b, c}
    assert plan.layouts[x] == plan.layouts[graph.outputs[0]] == PLAIN
    assert plan.layouts[a] == Layout(1, (1, 1, 1, 1))  # from convolution to convolution
    assert plan.layouts[b].block <= 1


def test_blocks_stay_where_rows_are_slow() -> None:
    graph, _ = chain()
    _, rows = planned(graph, costly_rows)
    assert not rows
    assert ops(graph) == ["copy", "conv2d", "conv2d", "tanh", "conv2d", "copy"]


def test_only_what_grouped_convolutions_touch() -> None:
    """A dense convolution that is slow along rows, behind a grouped one that is fast."""
    maker = Maker()
    x = maker.input(1, 20, 9, 9)
    a = maker.conv(x, 40, groups=4)
    graph = maker.done(maker.conv(maker.node("sigmoid", a), 48))

    def cost(task: ConvTask) -> float:
        if task.conv.groups == 1:
            return 1e6 if task.data.block == 1 else 1.0
        return cheap_rows(task)

    plan, rows = planned(graph, cost)
    assert {x, a} <= rows
    assert plan.layouts[a] == PLAIN
    assert ops(graph) == ["conv2d", "sigmoid", "conv2d"]
    assert plan.layouts[graph.nodes[2].inputs[0]].block > 1  # the sigmoid transposes for it


def test_networks_without_such_convolutions_cost_nothing() -> None:
    maker = Maker()
    x = maker.input(1, 64, 9, 9)
    graph = maker.done(maker.conv(maker.conv(maker.conv(x, 64), 64, 1), 64))

    def cost(task: ConvTask) -> float:
        raise AssertionError("nothing to compare")

    assert row_values(graph, LANES, cost) == frozenset()


@pytest.mark.parametrize("cost", [even, costly_rows])
def test_pointwise_chains_run_along_pixels_unless_blocks_are_faster(cost: object) -> None:
    maker = Maker()
    x = maker.input(1, 98, 9, 9)
    a = maker.conv(x, 98, 1)
    b = maker.node("relu", a)
    graph = maker.done(maker.conv(b, 98, 1))
    plan, rows = planned(graph, cost)
    assert plan.layouts[x] == PLAIN
    if cost is even:  # but for the copy at the end
        assert rows == {x, a, b, graph.outputs[0]}
        assert "copy" not in ops(graph)
    else:
        assert not rows
        assert plan.layouts[a].block > 1


@pytest.mark.parametrize(("size", "stride", "rows_pay"), [(2, 1, True), (3, 2, False)])
def test_pools_along_rows_cost_their_taps(size: int, stride: int, rows_pay: bool) -> None:
    """Rows save the copies at both ends and lose a little in the pool, or a lot if it is strided:
    then every output gathers what it reads.
    """
    maker = Maker()
    x = maker.input(1, 20, 36, 36)
    a = maker.conv(x, 20, groups=4)
    window = dict(kernel=(size,) * 2, stride=(stride,) * 2, dilation=(1, 1), padding=(1, 1, 1, 1))
    graph = maker.done(maker.conv(maker.node("max_pool2d", a, **window), 20, groups=4))
    _, rows = planned(graph, lambda task: 1e5 if task.data.block == 1 else 1.2e5)
    assert (a in rows) == rows_pay


def test_kernels_that_rows_lack_keep_their_layout() -> None:
    """A horizontal stride of 3, and an output that a later kernel reads as well."""
    maker = Maker()
    x = maker.input(1, 20, 9, 9)
    a = maker.conv(x, 20, groups=4)
    strided = maker.conv(a, 20, groups=4, stride=3)
    graph = maker.done(strided, a)
    plan, rows = planned(graph, cheap_rows)
    assert rows == {x, a}
    assert plan.layouts[a] == PLAIN
    assert plan.layouts[strided].block > 1
    assert ops(graph) == ["conv2d", "copy", "conv2d", "copy"]


def test_a_stem_of_wide_stride_leaves_grouped_convolutions_alone() -> None:
    maker = Maker()
    x = maker.conv(maker.input(1, 3, 64, 64), 80, stride=4)
    _, rows = planned(maker.done(maker.conv(x, 80, groups=16)), cheap_rows)
    assert x in rows


@pytest.mark.parametrize(("channels", "stays"), [(3, True), (5, False)])
def test_stems_may_write_rows(channels: int, stays: bool) -> None:
    """A wide convolution of few channels alone spares its output a copy; others are not asked."""
    maker = Maker()
    x = maker.input(1, channels, 24, 24)
    graph = maker.done(maker.conv(x, 80))
    _, rows = planned(graph, even)
    assert (graph.outputs[0] in rows) == stays
