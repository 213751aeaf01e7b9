"""transposed_to_conv, phases_to_channels, volumes_to_slices, and the parts a node is made of."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.parts import parts, phases, rim, slice_runs
from edgeconv.graph.phases_to_channels import phases_to_channels
from edgeconv.graph.pipeline import optimise
from edgeconv.graph.transposed_to_conv import mirrored, transposed_to_conv
from edgeconv.graph.volumes_to_slices import volumes_to_slices
from edgeconv.operators.convolution import Depth
from tests.graph.graphs import Maker, Unchanged, only, ops

Ints = tuple[int, ...]


def transposed(
    maker: Maker,
    x: Value,
    filters: int,
    kernel: Ints = (2, 2),
    stride: Ints | None = None,
    *,
    padding: Ints | None = None,
    groups: int = 1,
    dilation: Ints | None = None,
    weight: Value | None = None,
) -> Value:
    """A transposed convolution; by default, stride 2."""
    rank = len(kernel)
    if weight is None:
        weight = maker.constant(x.shape[1], filters // groups, *kernel)
    return maker.node(
        f"conv{rank}d_transpose",
        x,
        weight,
        maker.constant(filters),
        stride=stride or (2,) * rank,
        padding=padding or (0,) * (2 * rank),
        dilation=dilation or (1,) * rank,
        output_padding=(0,) * rank,
        groups=groups,
    )


def volumes(maker: Maker, x: Value, filters: int, **attrs: object) -> Value:
    """A 3x3x3 convolution that keeps the size."""
    weight = maker.constant(filters, x.shape[1], 3, 3, 3)
    common: dict[str, object] = {"stride": (1, 1, 1), "dilation": (1, 1, 1), "groups": 1}
    common |= {"padding": (1,) * 6, **attrs}
    return maker.node("conv3d", x, weight, **common)


# transposed_to_conv


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        ((3, 4), (2, 3), (1, 0, 2, 1), (1, 1), 2),
        ((3, 3), (1, 1), (4, 0, 0, 4), (2, 2), 1),
        ((1, 2), (2, 2), (0, -3, -1, 0), (1, 1), 1),
    ],
)
def test_values_stay(
    kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> None:
    maker = Maker()
    x = maker.input(2, 4, 5, 6)
    settings = {"padding": padding, "dilation": dilation, "groups": groups}
    graph = maker.done(transposed(maker, x, 6, kernel, stride, **settings))  # type: ignore[arg-type]
    with Unchanged(graph):
        assert transposed_to_conv(graph) == 1
    assert ops(graph) == ["conv2d"]


def test_weights_of_run_time_stay() -> None:
    maker = Maker()
    x, weight = maker.input(1, 4, 5, 5), maker.input(4, 6, 2, 2, name="w")
    graph = maker.done(transposed(maker, x, 6, weight=weight))
    assert transposed_to_conv(graph) == 0
    assert ops(graph) == ["conv2d_transpose"]


def test_mirrored_swaps_within_groups() -> None:
    weight = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 1, 2)  # 2 groups of 2 -> 3
    turned = mirrored(weight, 2)
    assert turned.shape == (6, 2, 1, 2)
    assert turned[4, 1, 0, 0] == weight[3, 1, 0, 1]


def test_batch_norm_and_activation_join_it() -> None:
    maker = Maker()
    y = transposed(maker, maker.input(1, 8, 5, 5), 40)
    y = maker.node("multiply", y, maker.constant(40, 1, 1))
    graph = maker.done(maker.node("relu", maker.node("add", y, maker.constant(1, 40, 1, 1))))
    with Unchanged(graph):
        optimise(graph)
    assert ops(graph) == ["conv2d"]
    assert only(graph, "conv2d").attrs["activation"] == ("relu", ())


# parts


@pytest.mark.parametrize("kernel", range(1, 6))
@pytest.mark.parametrize("stride", range(1, 5))
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("padding", [-2, 0, 1, 3])
def test_phases_meet_every_tap_once(kernel: int, stride: int, dilation: int, padding: int) -> None:
    size, out = 4, 9
    found = []
    for phase in phases(size, out, kernel, dilation, padding, stride):
        for i in range(phase.count):
            for t, tap in enumerate(phase.taps):
                source = i + t * phase.dilation - phase.before
                if 0 <= source < size:
                    found.append((phase.start + i * stride, tap, source))
        rows = size + phase.before + phase.after - phase.dilation * (len(phase.taps) - 1)
        assert rows == phase.count or not phase.taps
    wanted = [
        (y, k, (y + k * dilation - padding) // stride)
        for y in range(out)
        for k in range(kernel)
        if (y + k * dilation - padding) % stride == 0
        and 0 <= (y + k * dilation - padding) // stride < size
    ]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("taps", range(1, 5))
@pytest.mark.parametrize(("stride", "gap"), [(1, 1), (2, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("before", [-1, 0, 2])
def test_runs_hold_every_slice_once(
    taps: int, stride: int, gap: int, dilation: int, before: int
) -> None:
    depth = Depth(5, taps, stride, dilation, before, 1, gap)
    runs = slice_runs(depth)
    slots = [r.first + i * r.step for r in runs for i in range(r.count)]
    assert sorted(slots) == list(range(depth.out_size))
    for run in runs:
        for slot in range(run.first, run.first + run.count * run.step, run.step):
            places = {t: slot * stride - before + t * dilation for t in range(taps)}
            seen = [t for t, p in places.items() if p % gap == 0 and 0 <= p // gap < 5]
            assert seen == list(run.taps)


def test_parts_of_an_up_convolution() -> None:
    maker = Maker()
    graph = maker.done(transposed(maker, maker.input(1, 8, 5, 5), 40, (4, 4), padding=(1, 1, 1, 1)))
    transposed_to_conv(graph)
    node = only(graph, "conv2d")
    made = parts(node)
    assert [p.conv.kernel_size for p in made] == [(2, 2)] * 4
    assert [p.place.start for p in made if p.place] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert rim(node) == (1, 1, 1, 1)
    assert sum(p.conv.macs for p in made) == 4 * 10 * 10 * 40 * 8


# phases_to_channels


def few(filters: int, kernel: Ints, stride: Ints, groups: int = 1, channels: int = 64) -> Graph:
    maker = Maker()
    x = maker.input(1, channels, 6, 5)
    y = transposed(maker, x, filters, kernel, stride, padding=(1, 0, 0, 1), groups=groups)
    graph = maker.done(maker.node("relu", y))
    transposed_to_conv(graph)
    return graph


@pytest.mark.parametrize(
    ("filters", "kernel", "stride", "groups", "taps"),
    [
        (3, (4, 4), (2, 2), 1, 4 * 4 * 3),
        (1, (9, 9), (3, 3), 1, 81),
        (2, (5, 7), (5, 5), 1, 2 * 2 * 25),  # a filter a phase, or a tap: both are few
        (64, (6, 6), (6, 5), 64, 64 * 30),  # too many phases for a kernel each
        (32, (1, 1), (2, 2), 1, 32 * 4),  # phases without taps
    ],
)
def test_few_filters(filters: int, kernel: Ints, stride: Ints, groups: int, taps: int) -> None:
    graph = few(filters, kernel, stride, groups)
    with Unchanged(graph):
        assert phases_to_channels(graph, 16) == 1
    assert ops(graph)[:2] == ["conv2d", "fold"]
    assert only(graph, "conv2d").output.shape[1] in (taps, filters * stride[0] * stride[1])


@pytest.mark.parametrize(("filters", "groups"), [(64, 1), (64, 64), (32, 4)])
def test_many_filters_stay(filters: int, groups: int) -> None:
    graph = few(filters, (4, 4), (2, 2), groups)
    assert phases_to_channels(graph, 16) == 0


def test_few_filters_of_a_plain_convolution() -> None:
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 64, 8, 8), 3, bias=True))
    with Unchanged(graph):
        assert phases_to_channels(graph, 16) == 1
    assert ops(graph) == ["conv2d", "fold"]


def test_strided_convolutions_of_few_filters_stay() -> None:
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 64, 8, 8), 3, stride=2))
    assert phases_to_channels(graph, 16) == 0


# volumes_to_slices


def test_slices_pass_from_one_convolution_to_the_next() -> None:
    maker = Maker()
    x = maker.input(2, 4, 5, 6, 7)
    y = maker.node("relu", volumes(maker, x, 6))
    z = maker.node("add", volumes(maker, y, 6, stride=(1, 1, 1)), y)
    graph = maker.done(maker.node("sigmoid", z))
    with Unchanged(graph):
        optimise(graph)
    assert ops(graph) == ["slices", "conv2d", "conv2d", "volumes"]


def test_elementwise_operators_follow_the_slices() -> None:
    maker = Maker()
    x = maker.input(1, 4, 5, 6, 7)
    y = volumes(maker, x, 6)
    scalar = maker.graph.constant("s", np.array(0.5, np.float32))
    mixed = maker.node("add", maker.node("tanh", y), maker.node("multiply", y, scalar))
    graph = maker.done(volumes(maker, mixed, 3))
    with Unchanged(graph):
        optimise(graph)
    assert ops(graph).count("slices") == ops(graph).count("volumes") == 1


@pytest.mark.parametrize("attrs", [{"padding": (3, 0, 0, 0, 0, 0)}])
def test_slices_that_see_nothing_stay(attrs: dict[str, Ints]) -> None:
    maker = Maker()
    graph = maker.done(volumes(maker, maker.input(1, 4, 5, 6, 7), 3, **attrs))
    assert volumes_to_slices(graph) == 0
    assert ops(graph) == ["conv3d"]


@pytest.mark.parametrize(("kernel", "rewritten"), [((2, 3, 2), 1), ((2, 1, 2), 0), ((1, 2, 2), 0)])
def test_transposed_volumes(kernel: Ints, rewritten: int) -> None:
    maker = Maker()
    graph = maker.done(transposed(maker, maker.input(1, 4, 3, 4, 2), 5, kernel))
    with Unchanged(graph):
        assert transposed_to_conv(graph) == rewritten
        assert volumes_to_slices(graph) == rewritten


def test_nodes_without_gaps_are_one_part() -> None:
    maker = Maker()
    graph = maker.done(maker.conv(maker.input(1, 4, 5, 5), 7))
    node: Node = only(graph, "conv2d")
    (part,) = parts(node)
    assert part.place is None
    weight = node.inputs[1].data
    assert weight is not None
    assert np.array_equal(part.kernel(weight), weight)
