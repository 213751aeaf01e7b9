"""Convolutions whose output channels read different input channels: kernels against float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeconv.clusters import Clusters
from edgeconv.layout import Layout
from edgeconv.schedules import Family, family
from edgeconv.schedules.common import ceil_div
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules import assembly
from tests.schedules.assembly import AVX2, AVX512, matching
from tests.schedules.kernels import DEVICES, Kernels, device
from tests.test_clusters import drawn, sliding

PLANAR, BLOCKS = family("planar_clusters"), family("channel_clusters")
NCHW = Layout(1)
RELU = ("relu", ())
RNG = np.random.default_rng(5)
RAGGED = Clusters.of(RNG.integers(0, 4, 37)[:, None] == RNG.integers(0, 5, 21))


def planar(clusters: Clusters, h: int, w: int, *, fused: bool = True, batch: int = 1) -> ConvTask:
    """A pointwise convolution between NCHW maps."""
    conv = Conv2d(
        batch, clusters.in_channels, h, w, clusters.out_channels, (1, 1), clusters=clusters
    )
    return ConvTask(conv, NCHW, NCHW, fused, NCHW if fused else None, RELU if fused else None)


def blocked(conv: Conv2d, data: int, out: int, *, fused: bool = True) -> ConvTask:
    """A convolution between channel blocks; the halo is wider than the padding."""
    top, left, bottom, right = conv.padding
    halo = (top + 1, left, bottom, right + 2)
    residual = Layout(out, (1, 0, 1, 2)) if fused else None
    return ConvTask(
        conv,
        Layout(data, halo),
        Layout(out, (0, 2, 1, 0)),
        fused,
        residual,
        RELU if fused else None,
    )


def block_for(channels: int, lanes: int) -> int:
    return min(lanes, 1 << max(2, (channels - 1).bit_length()))


def some(kernels: Kernels, row: Family, task: ConvTask, most: int) -> None:
    """Kernels of settings taken evenly from all, and of the default."""
    assert row.supports(task, kernels.device) is None
    settings = list(row.candidates(task, kernels.device))
    assert len(set(settings)) == len(settings)
    for knobs in settings[:: ceil_div(len(settings), most)]:
        kernels.add(row, task, knobs)
    kernels.add(row, task, row.default_knobs(task, kernels.device))


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("size", [(4, 4), (9, 11)])
def test_planar_settings(
    target: str, size: tuple[int, int], kernels_for: Callable[[str], Kernels]
) -> None:
    """Windows that wrap, a last tile of pixels, tiles of channels that are not full."""
    kernels = kernels_for(target)
    some(kernels, PLANAR, planar(sliding(12, 24, 6, 3), *size, batch=2), 3)
    some(kernels, PLANAR, planar(sliding(21, 10, 5, 2), *size, fused=False), 1)
    some(kernels, PLANAR, planar(RAGGED, *size), 2)
    kernels.check()


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("form", ["blocks", "nchw"])
def test_block_settings(target: str, form: str, kernels_for: Callable[[str], Kernels]) -> None:
    kernels = kernels_for(target)
    lanes = kernels.device.lanes
    c, k = RAGGED.in_channels, RAGGED.out_channels
    out = block_for(k, lanes) if form == "blocks" else 1
    for conv in (
        Conv2d(2, c, 6, 7, k, (3, 2), (1, 1), (1, 0, 2, 1), clusters=RAGGED),
        Conv2d(1, c, 9, 8, k, (3, 3), (2, 1), (2, 2, 1, 2), (2, 2), clusters=RAGGED),
        Conv2d(1, c, 5, 5, k, (1, 1), (2, 2), clusters=RAGGED),
    ):
        some(kernels, BLOCKS, blocked(conv, block_for(c, lanes), out), 3)
    some(kernels, BLOCKS, blocked(conv, c, out, fused=False), 1)
    kernels.check()


def test_two_threads() -> None:
    two = device("host", 2)
    kernels = Kernels(two)
    windows = sliding(48, 96, 12, 6)
    for knobs in list(PLANAR.candidates(planar(windows, 30, 31), two))[::40]:
        kernels.add(PLANAR, planar(windows, 30, 31), knobs)
    conv = Conv2d(1, 48, 20, 19, 96, (3, 3), padding=(1, 1, 1, 1), clusters=windows)
    some(kernels, BLOCKS, blocked(conv, two.lanes, two.lanes), 3)
    kernels.check()


def test_outputs_that_read_nothing() -> None:
    reads = np.zeros((9, 6), bool)
    reads[3:5, 2:4] = True
    kernels = Kernels(device())
    some(kernels, PLANAR, planar(Clusters.of(reads), 5, 5), 2)
    conv = Conv2d(1, 6, 5, 5, 9, (3, 3), padding=(1, 1, 1, 1), clusters=Clusters.of(reads))
    some(kernels, BLOCKS, blocked(conv, 8, 16), 3)
    kernels.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("target", ["host", "x86-avx2", "x86-sse4"])
def test_random_clusters(seed: int, target: str) -> None:
    """Ten convolutions in each."""
    rng = np.random.default_rng(seed)
    kernels = Kernels(device(target))
    lanes = kernels.device.lanes
    for _ in range(10):
        clusters = drawn(rng)
        c, k = clusters.in_channels, clusters.out_channels
        r, s, sy, sx, dy, dx = (int(v) for v in rng.integers(1, 4, 6))
        pads = tuple(int(v) for v in rng.integers(0, 3, 4))
        h, w = int(rng.integers(dy * (r - 1) + 1, 20)), int(rng.integers(dx * (s - 1) + 1, 20))
        conv = Conv2d(1, c, h, w, k, (r, s), (sy, sx), pads, (dy, dx), clusters=clusters)  # type: ignore[arg-type]
        out = int(rng.choice([block_for(k, lanes), 1, k]))
        fused = bool(rng.integers(2))
        task = blocked(conv, int(rng.choice([block_for(c, lanes), 1, c])), out, fused=fused)
        kernels.add(BLOCKS, task, BLOCKS.default_knobs(task, kernels.device))
        flat = planar(clusters, h + 4, w + 4, fused=fused)
        kernels.add(PLANAR, flat, PLANAR.default_knobs(flat, kernels.device))
    kernels.check()


@pytest.mark.parametrize(
    ("row", "task", "reason"),
    [
        (PLANAR, ConvTask(Conv2d(1, 4, 9, 9, 4, (1, 1)), NCHW, NCHW), "every input channel"),
        (BLOCKS, ConvTask(Conv2d(1, 4, 9, 9, 4, (1, 1)), NCHW, NCHW), "every input channel"),
        (PLANAR, planar(RAGGED, 1, 3), "fewer pixels"),
        (
            PLANAR,
            ConvTask(planar(RAGGED, 9, 9).conv, Layout(8), NCHW),
            "only NCHW",
        ),
        (
            PLANAR,
            ConvTask(Conv2d(1, 21, 9, 9, 37, (3, 3), clusters=RAGGED), NCHW, NCHW),
            "only 1x1",
        ),
        (
            BLOCKS,
            ConvTask(
                Conv2d(1, 21, 9, 9, 37, (3, 3), padding=(1, 1, 1, 1), clusters=RAGGED), NCHW, NCHW
            ),
            "no zeros around",
        ),
    ],
)
def test_says_why_not(row: Family, task: ConvTask, reason: str) -> None:
    refusal = row.supports(task, device("x86-avx2"))
    assert refusal is not None
    assert reason in refusal.reason


TARGETS = {"x86-avx512": AVX512, "x86-avx2": AVX2}
LOOPS = {
    "windows": (PLANAR, planar(sliding(128, 128, 32, 16), 28, 28)),
    "steps of no class": (PLANAR, planar(sliding(128, 128, 16, 11), 14, 14)),
    "3x3": (
        BLOCKS,
        Conv2d(1, 128, 28, 28, 128, (3, 3), padding=(1,) * 4, clusters=sliding(128, 128, 32, 16)),
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LOOPS)
def test_hot_loops_keep_all_in_registers(target: str, name: str) -> None:
    isa, cpu = TARGETS[target], device(target)
    row, task = LOOPS[name]
    if isinstance(task, Conv2d):
        halo = Layout(cpu.lanes, task.padding)
        task = ConvTask(task, halo, Layout(cpu.lanes), True, None, RELU)
    knobs = row.default_knobs(task, cpu)
    lines = assembly.hottest(assembly.compiled(row, task, knobs, cpu), isa)
    tile = knobs.vectors * (
        knobs.channels if row is PLANAR else knobs.rows * knobs.columns * task.conv.kernel_size[1]
    )
    fmas = matching(lines, isa.fma)
    assert len(fmas) % tile == 0, (knobs, len(fmas))
    assert len(fmas) > len(lines) / 3, (knobs, len(fmas), len(lines))
    spills = [x for x in matching(lines, isa.stack) if matching([x], isa.vector)]
    assert not spills, (knobs, spills[:4])
    assert not matching(lines, isa.store)
