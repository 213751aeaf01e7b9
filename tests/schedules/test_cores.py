"""Kernels for several cores: right for maps of any size, and each core computes a part of the map
rather than some of its channels, so that neighbouring layers exchange few pixels.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import tirx

from edgeconv.layout import Layout
from edgeconv.runtime.buffers import aligned
from edgeconv.schedules import FAMILIES, family
from edgeconv.schedules.common import PARALLEL_MACS, ceil_div, is_even, parts_of
from edgeconv.schedules.pairs import pair_family
from edgeconv.schedules.traffic import bands_of_rows, shared_cycles, shares_map
from edgeconv.workload import Conv2d, ConvTask, PairTask
from tests.schedules.bounds import CheckedKernels, Checks, register
from tests.schedules.kernels import UNTOUCHED, Kernels, device, unpack
from tests.schedules.pairs import add
from tests.schedules.test_families import RELU, add_in_bands, layouts

SHARED = {  # schedules of maps that are worth sharing
    "pointwise": ("grouped_spatial_pack", Conv2d(1, 32, 15, 14, 48, (1, 1))),
    "dense": ("grouped_spatial_pack", Conv2d(1, 32, 14, 20, 32, (3, 3), padding=(1, 1, 1, 1))),
    "few rows": ("grouped_spatial_pack", Conv2d(1, 64, 7, 30, 64, (3, 3), padding=(1, 1, 1, 1))),
    "wide groups": ("grouped_spatial_pack", Conv2d(1, 64, 20, 20, 64, (3, 3), groups=2)),
    "narrow groups": ("lane_groups", Conv2d(1, 64, 20, 20, 64, (3, 3), groups=16)),
    "depthwise": (
        "depthwise_blocks",
        Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1), groups=64),
    ),
    "strided depthwise": (
        "depthwise_blocks",
        Conv2d(1, 96, 40, 40, 96, (3, 3), (2, 2), (1, 1, 1, 1), groups=96),
    ),
    "winograd": ("winograd", Conv2d(1, 32, 40, 40, 32, (3, 3), padding=(1, 1, 1, 1))),
}


def random_conv(rng: random.Random) -> Conv2d:
    """Of any kind, large enough to be run on several cores."""
    while True:
        channels, groups = rng.choice(
            [(24, 1), (33, 1), (64, 1), (32, 8), (48, 3), (40, 40), (64, 64), (96, 96), (21, 3)]
        )
        height, width, kernel = rng.randint(3, 40), rng.randint(3, 40), rng.choice([1, 3, 5])
        pad, stride = kernel // 2, rng.choice([1, 1, 2])
        out = channels if groups == channels else channels * rng.choice([1, 2])
        conv = Conv2d(
            *(rng.choice([1, 1, 2]), channels, height, width, out, (kernel, kernel)),
            *((stride, stride), (pad, pad, pad, pad)),
            groups=groups,
        )
        if conv.macs >= PARALLEL_MACS and min(conv.out_height, conv.out_width) > 0:
            return conv


def check_random(cores: int, seed: int, count: int) -> None:
    """The default and another setting of every family, in every layout."""
    cpu, rng = device("host", cores), random.Random(seed)
    kernels = Kernels(cpu)
    for _ in range(count):
        conv = random_conv(rng)
        for data, out in layouts(conv, cpu.lanes)[: 1 if rng.random() < 0.5 else None : 2]:
            task = ConvTask(conv, data, out.with_halo((1, 0, 2, 1)), True, out, RELU)
            for each in FAMILIES:
                if each.supports(task, cpu) is None:
                    kernels.add(each, task, each.default_knobs(task, cpu))
                    others = list(each.candidates(task, cpu))
                    kernels.add(each, task, rng.choice(others))
    kernels.check()


@pytest.mark.parametrize("cores", [2, 3])
def test_random_layers(cores: int) -> None:
    check_random(cores, seed=cores, count=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 26))
@pytest.mark.parametrize("cores", [2, 4, 6])
def test_many_random_layers(cores: int, seed: int) -> None:
    check_random(cores, seed, count=6)


class FirstCore(Checks):
    """Writes the share of the first of two cores."""

    def of(self, stmt: Any) -> Any:
        """A statement, parallel loops cut to their first half."""
        if isinstance(stmt, tirx.For) and stmt.kind == tirx.ForKind.PARALLEL:
            half = tirx.const(ceil_div(int(stmt.extent), 2), "int32")
            stmt = tirx.For(stmt.loop_var, stmt.min, half, tirx.ForKind.SERIAL, stmt.body)
        return super().of(stmt)


class FirstCoreKernels(CheckedKernels):
    """Kernels of which the first of two cores does its share."""

    pipeline = "edgeconv_first_core"


register(FirstCoreKernels.pipeline, FirstCore)


@pytest.mark.parametrize("name", SHARED)
def test_a_core_computes_rows(name: str) -> None:
    """All channels of the upper half of the map, and at most a row of tiles more."""
    schedule, conv = SHARED[name]
    cpu, row = device("host", 2), family(schedule)
    block = min(cpu.lanes, 16)
    task = ConvTask(conv, Layout(block, conv.padding), Layout(block))
    assert row.supports(task, cpu) is None
    kernels = FirstCoreKernels(cpu)
    kernels.add(row, task, row.default_knobs(task, cpu))
    pixels = written(kernels, conv.output_shape, task.out)
    assert (pixels.all(axis=0) == pixels.any(axis=0)).all()
    done = pixels.all(axis=0).reshape(-1)
    assert done[: int(len(done) * 0.45)].all()
    assert not done[int(len(done) * 0.65) :].any()


def written(kernels: FirstCoreKernels, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """Which elements [C, H, W] of its output the first of two cores writes."""
    constants, out = aligned((kernels.size,), "uint8"), aligned((kernels.scratch,), "uint8")
    constants[:] = np.concatenate(kernels.constants)
    floats = out.view(np.float32)
    floats[:] = UNTOUCHED
    kernels.main()(*[tvm_ffi.from_dlpack(a) for a in (constants, out)], 0, 1)
    return np.asarray(unpack(floats[: layout.elements(shape)], shape, layout)[0] != UNTOUCHED)


def test_channels_are_shared_where_weights_are_large() -> None:
    """A core then reads half of them, and pixels of which there are few."""
    assert not shares_map(Conv2d(1, 160, 7, 7, 960, (1, 1)))
    assert shares_map(Conv2d(1, 960, 14, 14, 160, (1, 1)))
    cpu, row = device("host", 2), family("grouped_spatial_pack")
    conv = Conv2d(1, 64, 4, 4, 512, (1, 1))
    task = ConvTask(conv, Layout(cpu.lanes), Layout(cpu.lanes))
    kernels = FirstCoreKernels(cpu)
    kernels.add(row, task, row.default_knobs(task, cpu))
    channels = written(kernels, conv.output_shape, task.out).reshape(512, -1)
    assert (channels.all(axis=1) == channels.any(axis=1)).all()
    assert 0.4 < channels.mean() < 0.6


@pytest.mark.parametrize(
    ("units", "cores", "even"),
    [(2, 2, True), (13, 2, True), (49, 2, True), (1, 2, False), (7, 2, False), (9, 4, False)],
)
def test_even(units: int, cores: int, even: bool) -> None:
    assert is_even(units, cores) == even


def test_one_core_shares_nothing() -> None:
    assert shared_cycles(1000, device("host", 1)) == 0
    assert shared_cycles(1000, device("host", 2)) > 0


@pytest.mark.parametrize("cores", [4, 6, 8, 15, 16])
def test_no_part_lies_behind_the_end(cores: int) -> None:
    """Heights that fall into fewer parts than there are cores."""
    cpu = device("host", cores)
    kernels = CheckedKernels(cpu)
    for height in (10, 14, 15, 28, 30):
        conv = Conv2d(1, 64, height, 30, 64, (3, 3), padding=(1, 1, 1, 1), groups=64)
        task = ConvTask(conv, Layout(cpu.lanes, conv.padding), Layout(cpu.lanes), True, None, RELU)
        row = family("depthwise_blocks")
        kernels.add(row, task, max(row.candidates(task, cpu), key=lambda knobs: knobs.parts))
    kernels.check()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("cores", "heights"),
    [(4, (9, 14)), (8, (9, 14)), *(pytest.param(n, (8, 9, 10, 14), marks=SLOW) for n in (4, 6, 8))],
)
def test_pairs_divide_rows(cores: int, heights: tuple[int, ...]) -> None:
    """Whatever the number of segments, each row is some core's."""
    cpu, row = device("host", cores), pair_family("pointwise_depthwise")
    kernels = CheckedKernels(cpu)
    for height in heights:
        layout = Layout(cpu.lanes)
        first = ConvTask(Conv2d(1, 32, height, 14, 64, (1, 1)), layout, layout, True, None, RELU)
        second = Conv2d(1, 64, height, 14, 64, (3, 3), padding=(1, 1, 1, 1), groups=64)
        task = PairTask(first, ConvTask(second, layout, layout))
        assert row.supports(task, cpu) is None
        settings = [row.default_knobs(task, cpu), *row.promising(task, cpu)]
        found = {knobs.segments: knobs for knobs in settings}
        assert max(found) > 1
        for knobs in found.values():
            add(kernels, row, task, knobs)
    kernels.check()


BANDS = ((13, 20, 3), (19, 9, 5))


@pytest.mark.parametrize(
    ("cores", "maps"),
    [(1, BANDS), (2, BANDS), *(pytest.param(n, ((23, 20, 3),), marks=SLOW) for n in (1, 2, 4))],
)
@pytest.mark.parametrize("name", ["lane_groups", "grouped_spatial_pack"])
def test_bands_of_groups(name: str, cores: int, maps: tuple[tuple[int, int, int], ...]) -> None:
    """Pixels of all channels that leave a small cache; numbers of rows that bands don't divide."""
    cpu = dataclasses.replace(device("host", cores), l2_kib=32)
    row, kernels = family(name), Kernels(cpu)
    for height, width, group in maps:
        channels = group * 15
        stride = (2, 2) if height == 19 else (1, 1)
        conv = Conv2d(1, channels, height, width, channels, (3, 3), stride, (1, 1, 1, 1), groups=15)
        for out in (Layout(channels), Layout(1)):
            data = Layout(channels, conv.padding)
            if row.supports(task := ConvTask(conv, data, out, True, out, RELU), cpu) is None:
                added = add_in_bands(kernels, row, task)
                assert cores > 2 or all(knobs.ahead for knobs in added)
    kernels.check()


@pytest.mark.parametrize("cores", [1, 2])
def test_groups_in_blocks_fetch_ahead(cores: int) -> None:
    """Maps in channel blocks that leave the last cache; filters that fill part of a vector too."""
    cpu = device("host", cores)
    small, kernels = dataclasses.replace(cpu, l2_kib=1, l3_kib=1), Kernels(cpu)
    lanes = Layout(cpu.lanes)
    for name, group, stride in (
        ("lane_groups", cpu.lanes // 4, (1, 1)),
        ("lane_groups", cpu.lanes // 2, (2, 2)),
        ("grouped_spatial_pack", cpu.lanes, (1, 2)),
    ):
        row, channels = family(name), 3 * cpu.lanes
        groups = channels // group
        conv = Conv2d(2, channels, 13, 18, channels, (3, 3), stride, (1, 1, 1, 1), groups=groups)
        out = lanes.with_halo((0, 1, 0, 1))
        task = ConvTask(conv, lanes.with_halo(conv.padding), out, True, lanes, RELU)
        assert not any(knobs.ahead for knobs in row.candidates(task, cpu))
        settings = list(row.candidates(task, small))
        assert all(knobs.ahead for knobs in settings)
        for knobs in settings[:: ceil_div(len(settings), 4)]:
            kernels.add(row, task, knobs)
    kernels.check()


def test_bands_of_a_single_row() -> None:
    """Grouped pointwise convolutions count their tiles along it."""
    cpu = dataclasses.replace(device("host"), l2_kib=1024)
    conv = Conv2d(1, 256, 1, 112 * 112, 256, (1, 1), groups=8)
    assert bands_of_rows(conv, 100, cpu) > 1
    assert bands_of_rows(conv, 100, dataclasses.replace(cpu, l2_kib=1 << 20)) == 1


def test_parts() -> None:
    assert [parts_of(14, n) for n in (1, 2, 4, 8, 14, 20)] == [1, 2, 4, 7, 14, 14]
