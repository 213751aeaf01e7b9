"""Depthwise kernels on random workloads, layouts and knobs, and what they refuse."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

import pytest

from edgeconv.layout import Layout
from edgeconv.schedules import depthwise_blocks, depthwise_rows, family
from edgeconv.schedules.common import ceil_div, starts, tap_uses
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.bounds import CheckedKernels
from tests.schedules.kernels import DEVICES, Kernels, device

RELU = ("relu", ())
ROWS, BLOCKS = family("depthwise_rows"), family("depthwise_blocks")


def workload(rng: random.Random) -> Conv2d:
    """Any depthwise convolution: odd sizes, unequal kernel, stride, dilation and padding."""
    channels = rng.choice((1, 2, 3, 5, 8, 12, 15, 16, 17, 20, 33))
    channels = max(channels, 2)
    multiplier = rng.choice((1, 1, 1, 1, 2, 3))
    kernel = (rng.randint(1, 5), rng.randint(1, 5)) if rng.random() < 0.9 else (7, 9)
    stride = (rng.randint(1, 3), rng.choice((1, 1, 2, 2, 3)))
    dilation = (rng.choice((1, 1, 2, 3, 4)), rng.choice((1, 1, 2, 3, 4)))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(rng.randint(0, extents[side % 2] // 2 + 1) for side in range(4))
    top, left, bottom, right = padding
    least = (max(1, extents[0] - top - bottom), max(1, extents[1] - left - right))
    height = least[0] + rng.randint(0, 20)
    width = least[1] + rng.randint(0, 60 if rng.random() < 0.4 else 15)
    return Conv2d(
        rng.randint(1, 2),
        channels,
        height,
        width,
        channels * multiplier,
        kernel,
        stride,
        (top, left, bottom, right),
        dilation,
        channels,
    )


def task_of(conv: Conv2d, rng: random.Random, cpu: Device) -> ConvTask:
    """With or without halo, bias, residual and activation; row-major or in vectors of channels."""
    wider = tuple(p + rng.randint(0, 2) for p in conv.padding)
    lanes = cpu.lanes
    data = rng.choice((Layout(1), Layout(1), Layout(1, wider), Layout(lanes, wider)))  # type: ignore[arg-type]
    out = rng.choice((Layout(1), Layout(1), Layout(1, (1, 0, 2, 1)), Layout(lanes, (0, 2, 1, 1))))
    residual = rng.choice((None, None, Layout(out.block), out))
    activation = rng.choice((None, RELU))
    return ConvTask(conv, data, out, rng.random() < 0.7, residual, activation)


def cases(seed: int, count: int, cpu: Device) -> Iterator[tuple[ConvTask, random.Random]]:
    """`count` tasks that a depthwise family takes."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        task = task_of(workload(rng), rng, cpu)
        if any(f.supports(task, cpu) is None for f in (ROWS, BLOCKS)):
            found += 1
            yield task, rng


Taken = set[tuple[str, bool, bool]]  # family, and whether data and output are row-major


def check(kernels: Kernels, seed: int, count: int) -> Taken:
    """The default and one other setting of each family that takes a task; for every second as if
    its map were large: tiles fetch ahead.
    """
    taken: Taken = set()
    for number, (task, rng) in enumerate(cases(seed, count, kernels.device)):
        cpu = kernels.device
        if number % 2:
            cpu = dataclasses.replace(cpu, l2_kib=1, l3_kib=1)
        for f in (ROWS, BLOCKS):
            if f.supports(task, cpu) is None:
                taken.add((f.name, task.data.block == 1, task.out.block == 1))
                default = f.default_knobs(task, cpu)
                for knobs in {default, rng.choice(list(f.candidates(task, cpu)))}:
                    kernels.add(f, task, knobs)
    kernels.check()
    return taken


@pytest.mark.parametrize("target", DEVICES)
def test_random_workloads(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    taken = check(kernels_for(target), seed=5, count=12)
    assert ("depthwise_rows", True, True) in taken
    for data, out in ((True, True), (True, False), (False, True)):
        assert ("depthwise_blocks", data, out) in taken


def test_two_threads() -> None:
    check(Kernels(device("host", 2)), seed=2, count=12)


@pytest.mark.parametrize("cores", [1, 2])
def test_fetching_ahead(cores: int) -> None:
    """Narrow tiles of large maps, all rows of tiles, with strides, halo and filters a channel."""
    cpu = device(cores=cores)
    small, kernels = dataclasses.replace(cpu, l2_kib=1), Kernels(cpu)
    for stride, dilation, filters in [
        ((1, 1), (3, 3), 1),
        ((2, 2), (1, 2), 1),
        ((1, 1), (2, 1), 2),
    ]:
        conv = Conv2d(1, 9, 40, 90, 9 * filters, (3, 3), stride, (3, 3, 3, 3), dilation, 9)
        for halo in ((0, 0, 0, 0), (3, 3, 3, 3)):
            task = ConvTask(conv, Layout(1, halo), Layout(1, (1, 0, 2, 1)), True, None, RELU)
            settings = [k for k in depthwise_rows.candidates(task, small) if k.ahead]
            assert settings
            for knobs in settings[:: ceil_div(len(settings), 3)]:
                kernels.add(ROWS, task, knobs)
    kernels.check()


@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_fetch_ahead(stride: int) -> None:
    """What large maps in blocks take that small ones do not: tiles of all shapes prefetch."""
    cpu = device()
    far, kernels = dataclasses.replace(cpu, l2_kib=1, l3_kib=1), Kernels(cpu)
    for size, dilation in ((3, 2), (5, 1)):
        reach = size // 2 * dilation
        conv = Conv2d(2, 33, 13, 22, 33, (size, size), (stride, stride), (reach,) * 4)
        conv = dataclasses.replace(conv, dilation=(dilation, dilation), groups=33)
        lanes = Layout(cpu.lanes)
        out = lanes.with_halo((1, 0, 2, 1))
        task = ConvTask(conv, lanes.with_halo((reach,) * 4), out, True, lanes, RELU)
        assert not any(knobs.ahead for knobs in BLOCKS.candidates(task, cpu))
        settings = list(BLOCKS.candidates(task, far))
        assert all(knobs.ahead for knobs in settings)
        for knobs in settings[:: ceil_div(len(settings), 5)]:
            kernels.add(BLOCKS, task, knobs)
        planes = dataclasses.replace(task, data=Layout(1))
        assert not any(knobs.ahead for knobs in BLOCKS.candidates(planes, far))
    kernels.check()


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("seed", range(10, 24))
def test_many_random_workloads(
    target: str, seed: int, kernels_for: Callable[[str], Kernels]
) -> None:
    """Above 500 tasks in all."""
    check(kernels_for(target), seed, count=12)


SQUARE = Conv2d(1, 32, 20, 20, 32, (3, 3), padding=(1, 1, 1, 1), groups=32)


def test_strips_of_maps_that_fill_no_cache() -> None:
    """Large maps are cut into strips: scratch planes, transposed pixels and results."""
    cpu = device()
    convs = [
        Conv2d(1, 18, 90, 85, 18, (3, 5), (2, 2), (1, 2, 1, 2), groups=18),
        Conv2d(1, 17, 61, 75, 17, (5, 3), (1, 1), (2, 3, 3, 1), (2, 1), 17),
        Conv2d(1, 16, 150, 9, 16, (3, 3), (1, 1), (1, 1, 1, 1), groups=16),
    ]
    kernels = Kernels(cpu)
    strips = set()
    for conv in convs:
        for out in (Layout(1), Layout(cpu.lanes)):
            task = ConvTask(conv, Layout(1), out, True, None, RELU)
            blocks = BLOCKS.default_knobs(task, cpu)
            kernels.add(BLOCKS, task, blocks)
            strips.add(depthwise_blocks.Space(task, blocks).strips > 1)
        task = ConvTask(conv, Layout(1), Layout(1), True)
        knobs = next(k for k in depthwise_rows.candidates(task, cpu) if k.scratch)
        kernels.add(ROWS, task, knobs)
        strips.add(depthwise_rows.Space(task, knobs).strips > 1)
        task = ConvTask(conv, Layout(cpu.lanes, conv.padding), Layout(1), True)
        kernels.add(BLOCKS, task, BLOCKS.default_knobs(task, cpu))
    kernels.check()
    assert strips == {True, False}


@pytest.mark.parametrize("target", ["host", "x86-sse4"])
@pytest.mark.parametrize(
    "conv",
    [
        Conv2d(1, 33, 30, 6, 33, (3, 2), (3, 3), (1, 1, 1, 0), groups=33),
        Conv2d(1, 33, 41, 14, 33, (1, 1), (3, 2), groups=33),
        Conv2d(1, 33, 40, 30, 33, (2, 2), (37, 1), (1, 0, 1, 1), groups=33),
        Conv2d(1, 33, 12, 12, 33, (1, 3), (40, 1), (39, 0, 28, 0), groups=33),
    ],
    ids=str,
)
def test_rows_that_no_output_reads(target: str, conv: Conv2d) -> None:
    """They are not copied: there is no room for them."""
    cpu = device(target)
    kernels = CheckedKernels(cpu)
    task = ConvTask(conv, Layout(1), Layout(1), True, None, RELU)
    for f in (ROWS, BLOCKS):
        if f.supports(task, cpu) is None:
            settings = list(f.candidates(task, cpu))
            for knobs in settings[:: ceil_div(len(settings), 4)]:
                kernels.add(f, task, knobs)
    assert kernels.jobs
    kernels.check()


@pytest.mark.parametrize(
    ("conv", "data", "out", "reason"),
    [
        (Conv2d(1, 16, 4, 4, 16, (3, 3), groups=8), 1, 1, "more than one channel"),
        (SQUARE, 4, 1, "in blocks"),
        (Conv2d(1, 16, 9, 9, 16, (3, 3), (1, 3), groups=16), 1, 1, "stride of 3"),
    ],
)
def test_rows_say_why_not(conv: Conv2d, data: int, out: int, reason: str) -> None:
    refusal = depthwise_rows.supports(ConvTask(conv, Layout(data), Layout(out)), device())
    assert refusal is not None
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("conv", "data", "out", "reason"),
    [
        (Conv2d(1, 16, 4, 4, 32, (3, 3), groups=16), Layout(1), Layout(1), "more than one channel"),
        (SQUARE, Layout(32, (1, 1, 1, 1)), Layout(1), "not vectors"),
        (SQUARE, Layout(1, (1, 1, 1, 1)), Layout(1), "row-major input"),
        (SQUARE, Layout(4), Layout(4), "no zeros around it"),
        (SQUARE, Layout(1), Layout(1, (1, 1, 1, 1)), "row-major output"),
    ],
)
def test_blocks_say_why_not(conv: Conv2d, data: Layout, out: Layout, reason: str) -> None:
    refusal = depthwise_blocks.supports(ConvTask(conv, data, out), device("raspberry-pi-4"))
    assert refusal is not None
    assert reason in refusal.reason


def test_arithmetic_of_taps() -> None:
    for outputs, taps, stride, dilation in ((3, 3, 1, 1), (2, 3, 2, 1), (4, 2, 1, 3), (1, 1, 2, 2)):
        found = tap_uses(outputs, taps, stride, dilation)
        assert list(found) == sorted(found)
        pairs = [pair for uses in found.values() for pair in uses]
        assert sorted(pairs) == [(i, t) for i in range(outputs) for t in range(taps)]
        assert all(i * stride + t * dilation == at for at, uses in found.items() for i, t in uses)
    assert starts(10, 4) == [0, 4, 6]
    assert len(starts(33, 16)) == ceil_div(33, 16)
