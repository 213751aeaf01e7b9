"""Every family with every legal setting makes the same, right result; sizes around every block."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgeconv import strategy
from edgeconv.layout import Layout
from edgeconv.schedules import FAMILIES, Family, family, grouped_conv2d, lane_groups
from edgeconv.schedules.common import ceil_div, minimum, tile_start
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.kernels import DEVICES, Kernels, device

RELU = ("relu", ())


def block_for(channels: int, lanes: int) -> int:
    """What layouts use: the vector width, less for fewer channels."""
    block = 4
    while block < min(lanes, channels):
        block *= 2
    return min(block, lanes)


def layouts(conv: Conv2d, lanes: int, *, extra: int = 0) -> list[tuple[Layout, Layout]]:
    """NCHW{L}c, NHWC and NCHW for input and output; the input's halo is its padding or wider."""
    halo = tuple(p + extra for p in conv.padding)
    ins = [block_for(conv.in_channels, lanes), conv.in_channels, 1]
    outs = [block_for(conv.out_channels, lanes), conv.out_channels, 1]
    pairs = [(i, o) for i, o in itertools.product(ins, outs) if (i == 1) <= (o != 1 or i == o)]
    return [(Layout(i, halo), Layout(o)) for i, o in dict.fromkeys(pairs)]  # type: ignore[arg-type]


# every setting of a few workloads

SMALL = {
    "dense": Conv2d(1, 5, 5, 6, 18, (3, 2), padding=(1, 1, 1, 0)),
    "strided": Conv2d(2, 3, 7, 5, 16, (3, 3), (2, 1), (1, 0, 0, 1)),
    "pointwise": Conv2d(1, 9, 3, 4, 33, (1, 1)),
    "dilated": Conv2d(1, 4, 7, 8, 6, (2, 2), dilation=(2, 3)),
    "grouped": Conv2d(1, 24, 4, 4, 40, (1, 3), padding=(0, 1, 0, 1), groups=2),
    "ragged groups": Conv2d(1, 6, 4, 5, 9, (3, 3), padding=(1, 1, 1, 1), groups=3),
    "groups narrower than a vector": Conv2d(
        1, 33, 4, 5, 22, (3, 3), padding=(1, 1, 1, 1), groups=2
    ),
    "narrow groups": Conv2d(1, 32, 4, 5, 32, (3, 1), padding=(1, 0, 1, 0), groups=8),
    "depthwise": Conv2d(1, 20, 4, 5, 20, (3, 3), padding=(1, 1, 1, 1), groups=20),
    "multiplier": Conv2d(1, 7, 4, 4, 14, (3, 3), padding=(1, 1, 1, 1), groups=7),
    "shuffled": Conv2d(1, 16, 3, 4, 32, (1, 1), groups=2, input_shuffle=4),
}
MOST = 30  # kernels of one workload; they are taken evenly from all


@pytest.mark.parametrize("name", SMALL)
def test_every_setting_gives_the_right_result(name: str) -> None:
    """All families, layouts and knobs; where there are hundreds, every nth is built."""
    conv, host = SMALL[name], device()
    settings = [
        (f, task, knobs)
        for data, out in layouts(conv, host.lanes)
        for task in [ConvTask(conv, data, out, bias=True)]
        for f in FAMILIES
        if f.supports(task, host) is None
        for knobs in f.candidates(task, host)
    ]
    kernels = Kernels(host)
    for f, task, knobs in settings[:: ceil_div(len(settings), MOST)]:
        kernels.add(f, task, knobs)
    kernels.check()


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("name", SMALL)
def test_really_every_setting(
    name: str, target: str, kernels_for: Callable[[str], Kernels]
) -> None:
    conv, cpu = SMALL[name], device(target)
    for data, out in layouts(conv, cpu.lanes, extra=1):
        task = ConvTask(conv, data, out, True, out.with_halo((1, 0, 2, 1)), RELU)
        for f in FAMILIES:
            if f.supports(task, cpu) is None:
                kernels = kernels_for(target)
                for knobs in list(f.candidates(task, cpu))[:400]:
                    kernels.add(f, task, knobs)
                kernels.check()


# default settings, many sizes


def check_defaults(kernels: Kernels, convs: list[Conv2d], *, fused: bool = False) -> None:
    """The default knobs of every family that takes the workload, in all layouts."""
    cpu = kernels.device
    for conv in convs:
        for data, out in layouts(conv, cpu.lanes):
            task = ConvTask(conv, data, out)
            if fused:
                task = ConvTask(conv, data, out.with_halo((1, 2, 0, 1)), True, out, RELU)
            for f in FAMILIES:
                if f.supports(task, cpu) is None:
                    kernels.add(f, task, f.default_knobs(task, cpu))
    kernels.check()


@pytest.mark.parametrize("target", DEVICES)
def test_channels_around_the_lanes(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    lanes = device(target).lanes
    around = (lanes - 1, lanes, lanes + 1)
    sizes = [*zip(around, around, strict=True), (lanes + 1, lanes - 1), (lanes, 2 * lanes + 1)]
    check_defaults(
        kernels_for(target),
        [Conv2d(1, c, 3, 4, k, (2, 3), padding=(0, 1, 1, 1)) for c, k in sizes],
    )


@pytest.mark.parametrize("target", DEVICES)
def test_maps_around_the_tiles(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    """The host's tiles have up to six rows and fourteen columns."""
    sizes = [(1, 1), (1, 13), (2, 14), (3, 15), (5, 2), (6, 7), (7, 3), (13, 29)]
    check_defaults(kernels_for(target), [Conv2d(1, 4, h, w, 16, (1, 1)) for h, w in sizes])


WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize(
    ("groups", "widths"),
    [
        (2, (1, 3, 5, 8, 16, 32)),
        (5, (2, 3, 4, 6, 12, 24)),
        *(pytest.param(n, WIDTHS, marks=pytest.mark.slow) for n in (2, 5)),
    ],
)
def test_narrow_groups(
    target: str, groups: int, widths: Sequence[int], kernels_for: Callable[[str], Kernels]
) -> None:
    """As many outputs a group as inputs, below, at and above the vector width."""
    check_defaults(
        kernels_for(target),
        [
            Conv2d(1, groups * k, 3, 4, groups * k, (3, 3), padding=(1, 1, 1, 1), groups=groups)
            for k in widths
        ],
    )


@pytest.mark.parametrize("kpg", WIDTHS)
def test_unequal_groups(kpg: int) -> None:
    """More or fewer outputs a group than inputs, with all that can be fused."""
    check_defaults(
        Kernels(device()),
        [Conv2d(2, 3 * cpg, 3, 3, 3 * kpg, (2, 2), groups=3) for cpg in (1, 2, 5, 16)],
        fused=True,
    )


def test_two_threads() -> None:
    """Above the limit from which kernels are parallel."""
    convs = [
        Conv2d(1, 32, 20, 20, 32, (3, 3), padding=(1, 1, 1, 1)),
        Conv2d(2, 32, 20, 20, 32, (3, 3), padding=(1, 1, 1, 1), groups=8),
    ]
    two = device("host", 2)
    kernels = Kernels(two)
    for conv in convs:
        for data, out in layouts(conv, two.lanes):
            task = ConvTask(conv, data, out, bias=True)
            choice = strategy.choose(task, two)
            kernels.add(choice.family, task, choice.knobs)
    kernels.check()


# packing, against its definition


def groups_of(conv: Conv2d, channel: int) -> int:
    """The group an output channel belongs to."""
    return channel // conv.out_channels_per_group


@pytest.mark.parametrize("target", ["host", "raspberry-pi-4"])
@pytest.mark.parametrize("name", SMALL)
def test_packing_of_spatial_pack(name: str, target: str) -> None:
    conv, host, rng = SMALL[name], device(target), np.random.default_rng(0)
    k, cpg, (r, s) = conv.out_channels, conv.in_channels_per_group, conv.kernel_size
    weight, bias = rng.standard_normal((k, cpg, r, s)), rng.standard_normal(k)
    for data, out in layouts(conv, host.lanes):
        task = ConvTask(conv, data, out, bias=True)
        for knobs in list(grouped_conv2d.candidates(task, host))[::37]:
            space = grouped_conv2d.Space(task, knobs)
            packed = grouped_conv2d.pack_weights(task, knobs, weight)
            biases = grouped_conv2d.pack_bias(task, knobs, bias)
            assert packed.shape == space.weight_shape()
            seen = set()
            outs = space.channel_table()
            for tile, m, lane in np.ndindex(*outs.shape):
                o = int(outs[tile, m, lane])
                seen.add(o)
                assert biases[tile, m, lane] == (bias[o] if o < k else 0)
                for chunk, ci in np.ndindex(space.chunks, space.chunk):
                    channel = space.first_group(tile) * cpg + chunk * space.chunk + ci
                    own = o < k and channel // cpg == groups_of(conv, o)
                    wanted = weight[o, channel % cpg] if own else np.zeros((r, s))
                    quad, k_in = divmod(ci, knobs.quad)
                    found = packed[tile, chunk, :, quad, :, k_in, m, lane]
                    assert np.array_equal(found, wanted)
            assert seen >= set(range(k))


@pytest.mark.parametrize("name", SMALL)
def test_packing_of_lane_groups(name: str) -> None:
    conv, host, rng = SMALL[name], device(), np.random.default_rng(0)
    k, cpg, (r, s) = conv.out_channels, conv.in_channels_per_group, conv.kernel_size
    weight, bias = rng.standard_normal((k, cpg, r, s)), rng.standard_normal(k)
    for data, out in layouts(conv, host.lanes):
        task = ConvTask(conv, data, out, bias=True)
        if lane_groups.supports(task, host) is not None:
            continue
        for knobs in list(lane_groups.candidates(task, host))[::17]:
            space = lane_groups.Space(task, knobs)
            packed = lane_groups.pack_weights(task, knobs, weight)
            biases = lane_groups.pack_bias(task, knobs, bias)
            assert packed.shape == space.weight_shape() == (space.vectors, r, cpg, s, knobs.lanes)
            seen = set()
            for v, lane in np.ndindex(space.vectors, knobs.lanes):
                o = space.out_channel(v) + lane
                holds = lane < space.used and o < k
                seen |= {o} if holds else set()
                assert biases[v, lane] == (bias[o] if holds else 0)
                wanted = weight[o].transpose(1, 0, 2) if holds else np.zeros((r, cpg, s))
                assert np.array_equal(packed[v, :, :, :, lane], wanted)
                for i in range(cpg if holds else 0):  # the permutes fetch the group's own channels
                    source = space.in_channel(v) + space.permutation()[lane] + i
                    assert source == groups_of(conv, o) * cpg + i
            assert seen == set(range(k))


# what families refuse


def test_spatial_pack_refuses_plain_layouts_only() -> None:
    conv = SMALL["dense"]
    refusal = grouped_conv2d.supports(ConvTask(conv, Layout(), Layout(16)), device())
    assert "layout" in str(refusal)
    for data, out in layouts(conv, device().lanes):
        assert grouped_conv2d.supports(ConvTask(conv, data, out), device()) is None


@pytest.mark.parametrize(
    ("conv", "block", "reason"),
    [
        (Conv2d(1, 16, 4, 4, 16, (3, 3)), 4, "only one group"),
        (Conv2d(1, 128, 4, 4, 128, (3, 3), groups=2), 4, "a group has 64 channels"),
        (Conv2d(1, 16, 4, 4, 16, (1, 1), groups=8, input_shuffle=2), 4, "shuffled"),
        (Conv2d(1, 9, 4, 4, 9, (3, 3), groups=3), 4, "straddle"),
    ],
)
def test_lane_groups_says_why_not(conv: Conv2d, block: int, reason: str) -> None:
    task = ConvTask(conv, Layout(block), Layout(block))
    refusal = lane_groups.supports(task, device("x86-avx2"))
    assert refusal is not None
    assert reason in refusal.reason


@pytest.mark.parametrize("row", FAMILIES, ids=lambda f: f.name)
def test_rows_are_complete(row: Family) -> None:
    assert family(row.name) is row
    assert row.title
    conv = Conv2d(1, 32, 8, 8, 32, (3, 3), padding=(1, 1, 1, 1), groups=8)
    for name in ("host", "raspberry-pi-4", "x86-sse4"):
        cpu = device(name)
        task = ConvTask(conv, Layout(cpu.lanes, conv.padding), Layout(cpu.lanes))
        if row.supports(task, cpu) is not None:
            continue
        knobs = row.default_knobs(task, cpu)
        legal = list(row.candidates(task, cpu))
        assert knobs in legal
        assert len(set(legal)) == len(legal)
        least = row.estimate(task, knobs, cpu)
        assert 0 < least == min(row.estimate(task, k, cpu) for k in legal)
        # knobs beyond what the machine's registers hold would spill
        accumulators = [k.rows * getattr(k, "columns", 1) * getattr(k, "vectors", 1) for k in legal]
        assert max(accumulators) < cpu.vector_registers


def add_in_bands(kernels: Kernels, row: Family, task: ConvTask) -> list[Any]:
    """Append a kernel for two settings that cut the map into bands, and return them; there must be
    some.
    """
    found = [knobs for knobs in row.candidates(task, kernels.device) if knobs.bands > 1]
    assert found
    taken = found[:: ceil_div(len(found), 2)]
    for knobs in taken:
        kernels.add(row, task, knobs)
    return taken


@pytest.mark.parametrize(
    "conv",
    [
        Conv2d(2, 20, 13, 9, 40, (1, 1)),
        Conv2d(1, 7, 33, 19, 35, (3, 3), (2, 1), (1, 1, 1, 1)),
        Conv2d(1, 8, 37, 41, 36, (5, 5), padding=(2, 2, 2, 2)),
    ],
)
def test_bands_of_rows(conv: Conv2d) -> None:
    """Of maps that leave a cache; where rows don't divide evenly the last band is smaller."""
    map_kib = conv.in_channels * conv.height * conv.width * 4 // 1024
    target = dataclasses.replace(device("host", 3 - conv.batch), l2_kib=2 * map_kib)
    kernels = Kernels(target)
    row = family("grouped_spatial_pack")
    for data, out in layouts(conv, target.lanes):
        task = ConvTask(conv, data, out, True, out, RELU)
        add_in_bands(kernels, row, task)
    kernels.check()


def test_no_bands_where_the_cache_holds_the_map_or_not_the_weights() -> None:
    row, target = family("grouped_spatial_pack"), device("x86-avx512")

    def most_bands(conv: Conv2d) -> int:
        task = ConvTask(conv, Layout(16), Layout(16), True, None, None)
        return max(k.bands for k in row.candidates(task, target))

    assert most_bands(Conv2d(1, 64, 28, 28, 64, (1, 1))) == 1
    assert most_bands(Conv2d(1, 64, 112, 112, 64, (1, 1))) > 1
    assert most_bands(Conv2d(1, 512, 56, 56, 2048, (1, 1))) == 1
    assert most_bands(Conv2d(1, 64, 112, 112, 64, (1, 1), groups=2)) == 1


def test_unknown_families_are_key_errors_or_stop() -> None:
    with pytest.raises((KeyError, StopIteration)):
        family("winograd_of_everything")


def test_arithmetic() -> None:
    assert [tile_start(t, 4, 10) for t in range(3)] == [0, 4, 6]
    assert [tile_start(t, 5, 10) for t in range(2)] == [0, 5]
    assert minimum(2, 3) == 2
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
