"""Grouped kernels on row-major maps: random workloads, layouts and knobs, and what they refuse."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgeconv.layout import Layout
from edgeconv.schedules import family
from edgeconv.schedules.grouped_rows import Space
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules import assembly
from tests.schedules.assembly import AVX2, AVX512, NEON, matching
from tests.schedules.kernels import DEVICES, Kernels, device

RELU = ("relu", ())
ROWS = family("grouped_rows")


def workload(rng: random.Random) -> Conv2d:
    """Any grouped or narrow dense convolution: odd widths, unequal kernel, stride and padding."""
    groups = rng.choice((1, 2, 3, 5))
    cpg, kpg = rng.choice((1, 2, 3, 5, 6, 7, 12, 20)), rng.choice((1, 2, 3, 5, 6, 7, 13, 20))
    kernel = (rng.randint(1, 5), rng.randint(1, 5))
    stride = (rng.randint(1, 3), rng.choice((1, 1, 2)))
    dilation = (rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 3)))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(rng.randint(0, extents[side % 2] // 2 + 1) for side in range(4))
    top, left, bottom, right = padding
    least = (max(1, extents[0] - top - bottom), max(1, extents[1] - left - right))
    size = [low + rng.randint(0, 40 if rng.random() < 0.3 else 15) for low in least]
    shuffle = rng.choice([d for d in (1, 1, 2, 3, 5) if cpg * groups % d == 0])
    shape = (rng.randint(1, 2), cpg * groups, *size, kpg * groups, kernel, stride)
    return Conv2d(*shape, (top, left, bottom, right), dilation, groups, shuffle)


def task_of(conv: Conv2d, rng: random.Random) -> ConvTask:
    """With or without halo, bias, residual and activation."""
    top, left, bottom, right = (p + rng.randint(0, 2) for p in conv.padding)
    data = rng.choice((Layout(1), Layout(1, (top, left, bottom, right)), Layout(1, conv.padding)))
    out = rng.choice((Layout(1), Layout(1, (1, 0, 2, 1))))
    residual = rng.choice((None, None, Layout(1), out))
    return ConvTask(conv, data, out, rng.random() < 0.7, residual, rng.choice((None, RELU)))


def cases(seed: int, count: int, cpu: Device) -> Iterator[tuple[ConvTask, random.Random]]:
    """`count` tasks that the family takes."""
    rng = random.Random(seed)
    while count:
        task = task_of(workload(rng), rng)
        if ROWS.supports(task, cpu) is None:
            count -= 1
            yield task, rng


def check(kernels: Kernels, seed: int, count: int) -> set[tuple[bool, bool]]:
    """The default and one other setting of each task, that as if the map were large; the ways that
    were taken.
    """
    taken, small = set(), dataclasses.replace(kernels.device, l2_kib=0)
    for task, rng in cases(seed, count, kernels.device):
        legal = list(ROWS.candidates(task, small))
        assert all(knobs.ahead for knobs in legal)
        for knobs in {ROWS.default_knobs(task, kernels.device), rng.choice(legal)}:
            kernels.add(ROWS, task, knobs)
            taken.add((knobs.flat, knobs.scratch))
    kernels.check()
    return taken


@pytest.mark.parametrize("target", DEVICES)
def test_random_workloads(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    taken = check(kernels_for(target), 1, 15)
    assert {flat for flat, _ in taken} == {True, False}
    assert {scratch for _, scratch in taken} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_random_workloads(
    target: str, seed: int, kernels_for: Callable[[str], Kernels]
) -> None:
    """500 tasks on each target."""
    check(kernels_for(target), seed, 100)


def test_strips_and_threads() -> None:
    """Maps too large for the scratch are cut into strips; strips run on several threads."""
    cpu = device("host", 2)
    small = dataclasses.replace(cpu, l2_kib=0)  # its kernels fetch ahead
    kernels, strips = Kernels(cpu), set()
    for conv in (
        Conv2d(1, 10, 90, 85, 14, (3, 5), (2, 2), (1, 2, 1, 2), groups=2),
        Conv2d(2, 9, 61, 75, 15, (5, 3), (1, 1), (2, 3, 3, 1), (2, 1), 3),
        Conv2d(1, 35, 30, 130, 35, (3, 3), (1, 1), (1, 1, 1, 1), groups=5),
    ):
        task = ConvTask(conv, Layout(1), Layout(1), True, Layout(1), RELU)
        for flat, device_of in itertools.product((True, False), (cpu, small)):
            legal = [k for k in ROWS.candidates(task, device_of) if k.flat == flat]
            knobs = min(legal, key=lambda k: ROWS.estimate(task, k, cpu))
            kernels.add(ROWS, task, knobs)
            strips.add(Space(task, knobs).strips > 1)
            assert bool(knobs.ahead) == (device_of is small)
    kernels.check()
    assert strips == {True, False}


SQUARE = Conv2d(1, 20, 9, 9, 20, (3, 3), padding=(1, 1, 1, 1), groups=4)


@pytest.mark.parametrize(
    ("conv", "data", "out", "reason"),
    [
        (Conv2d(1, 9, 9, 9, 9, (3, 3), groups=9), 1, 1, "one channel a group"),
        (Conv2d(1, 9, 9, 9, 9, (1, 1), groups=3), 1, 1, "1x1"),
        (Conv2d(1, 9, 9, 9, 9, (3, 3), (1, 3), groups=3), 1, 1, "stride of 3"),
        (SQUARE, 20, 1, "in blocks"),
        (SQUARE, 1, 16, "in blocks"),
    ],
)
def test_reasons(conv: Conv2d, data: int, out: int, reason: str) -> None:
    refusal = ROWS.supports(ConvTask(conv, Layout(data), Layout(out)), device())
    assert refusal is not None
    assert reason in refusal.reason


def test_strung_rows_waste_few_lanes() -> None:
    """20 columns are 2 vectors of 16 with 12 lanes empty; strung together, one lane a row is."""
    conv = Conv2d(1, 20, 20, 20, 20, (3, 3), padding=(1, 1, 1, 1), groups=4)
    task, cpu = ConvTask(conv, Layout(1), Layout(1)), device("x86-avx512")
    knobs = ROWS.default_knobs(task, cpu)
    assert knobs.flat
    space = Space(task, knobs)
    assert space.pitch == 21
    vectors = space.full_tiles * knobs.columns + len(space.tail)
    assert space.strips * vectors * cpu.lanes < 1.1 * 20 * 20


def test_packing() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((21, 4, 3, 2))
    conv = Conv2d(1, 12, 9, 9, 21, (3, 2), groups=3)
    task = ConvTask(conv, Layout(1), Layout(1))
    for knobs in list(ROWS.candidates(task, device()))[::11]:
        packed, space = ROWS.pack_weights(task, knobs, weight), Space(task, knobs)
        seen = set()
        for g, t, m in np.ndindex(3, space.channel_tiles, knobs.channels):
            channel = g * 7 + space.channel(t) + m
            assert np.array_equal(packed[g, t, ..., m], weight[channel])
            seen.add(channel)
        assert seen == set(range(21))


TARGETS = {"x86-avx512": AVX512, "x86-avx2": AVX2, "raspberry-pi-4": NEON, "raspberry-pi-5": NEON}
LOOPS = {
    "5 a group": (5, 5, 28, 3, 1),
    "20 a group": (20, 20, 28, 3, 1),
    "3 a group": (3, 3, 56, 3, 1),
    "5x5, stride 2": (6, 12, 28, 5, 2),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LOOPS)
def test_hot_loop(name: str, target: str) -> None:
    """As many multiply-adds as the tile has, no register spilled, nothing stored."""
    (cpg, kpg, size, k, s), isa, cpu = LOOPS[name], TARGETS[target], device(target)
    pad = (k // 2,) * 4
    conv = Conv2d(1, 4 * cpg, size, size, 4 * kpg, (k, k), (s, s), pad, groups=4)
    for data in (Layout(1), Layout(1, pad)):
        task = ConvTask(conv, data, Layout(1), True, None, RELU)
        knobs = ROWS.default_knobs(task, cpu)
        lines = assembly.hottest(assembly.compiled(ROWS, task, knobs, cpu), isa)
        fmas = len(matching(lines, isa.fma))
        vectors = knobs.rows * knobs.columns
        passes, rest = divmod(fmas, vectors * knobs.channels * k)  # LLVM may unroll further
        assert passes >= 1, (knobs, fmas)
        assert rest == 0, (knobs, fmas)
        spills = [x for x in matching(lines, isa.stack) if re.search(isa.vector, x)]
        assert not spills, (knobs, spills[:4])
        assert not matching(lines, isa.store), knobs
        assert not matching(lines, isa.call), knobs
        loads, scalars = k * (vectors + knobs.channels), 20
        assert len(lines) <= fmas + passes * (loads + scalars), (knobs, fmas, len(lines))
