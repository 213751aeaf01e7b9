"""Kernels of several depthwise filters on random workloads, layouts and knobs; what they refuse;
their machine code.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgeconv import strategy
from edgeconv.layout import Layout
from edgeconv.schedules import FAMILIES, depthwise_branch_rows, depthwise_branches, family
from edgeconv.schedules.depthwise_branches import runs_of
from edgeconv.targets import Device
from edgeconv.workload import Branch, Branches, Conv2d, ConvTask
from tests.schedules import assembly
from tests.schedules.assembly import AVX2, AVX512, NEON, matching
from tests.schedules.kernels import DEVICES, Data, Kernels, device

RELU = ("relu", ())
OWN = (family("depthwise_branches"), family("depthwise_branch_rows"))


def grid(kernel: int, dilation: int, size: int) -> Branch:
    """A square filter in the middle of a window."""
    start = (size - (kernel - 1) * dilation) // 2
    places = [start + i * dilation for i in range(kernel)]
    return Branch(tuple((y, x) for y in places for x in places))


def reference(task: ConvTask, data: Data) -> np.ndarray:
    """The definition, in float64."""
    conv = task.conv
    assert conv.branches is not None
    top, left, bottom, right = conv.padding
    x = np.pad(data.x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    (sy, sx), oh, ow = conv.stride, conv.out_height, conv.out_width
    outputs, start = [], 0
    for number, branch in enumerate(conv.branches.members):
        total = np.zeros((conv.batch, conv.in_channels, oh, ow))
        if task.bias:
            total += data.bias.reshape(-1, 1, conv.in_channels, 1, 1)[number]
        for t, (r, c) in enumerate(branch.taps, start):
            pixels = x[:, :, r : r + (oh - 1) * sy + 1 : sy, c : c + (ow - 1) * sx + 1 : sx]
            total += pixels * data.weight[:, t].reshape(1, -1, 1, 1)
        start += len(branch.taps)
        outputs.append(np.maximum(total, 0) if branch.activation else total)
    result = np.concatenate(outputs, 1) if conv.branches.concat else sum(outputs)
    if task.residual is not None:
        result = result + data.residual
    return np.maximum(result, 0) if task.activation else np.asarray(result)


def data_for(task: ConvTask, seed: int) -> Data:
    """Small whole numbers, for which float32 is exact."""
    conv, rng = task.conv, np.random.default_rng(seed)
    assert conv.branches is not None

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(-4, 5, shape).astype(np.float32)

    x = draw(conv.batch, conv.in_channels, conv.height, conv.width)
    weight = draw(conv.in_channels, conv.branches.taps)
    bias = draw(conv.in_channels * len(conv.branches.members))
    data = Data(x, weight, bias, draw(*conv.output_shape), x)
    return Data(x, weight, bias, data.residual, reference(task, data).astype(np.float32))


def workload(rng: random.Random) -> Conv2d:
    """Branches of any taps in a window: grids of any dilation, and lists without order."""
    channels = rng.choice((2, 3, 5, 8, 12, 15, 16, 17, 20, 32, 33))
    kernel = (rng.randint(1, 9), rng.randint(1, 9))
    stride = (rng.randint(1, 3), rng.choice((1, 1, 2, 2, 3)))
    padding = tuple(rng.randint(0, kernel[side % 2] // 2 + 1) for side in range(4))
    top, left, bottom, right = padding
    height = max(1, kernel[0] - top - bottom) + rng.randint(0, 12)
    width = max(2, kernel[1] - left - right) + rng.randint(0, 40 if rng.random() < 0.4 else 12)
    members = []
    for _ in range(rng.randint(1, 4)):
        rows = range(rng.randint(0, kernel[0] - 1), kernel[0], rng.randint(1, 3))
        columns = range(rng.randint(0, kernel[1] - 1), kernel[1], rng.randint(1, 3))
        taps = [(r, c) for r in rows for c in columns]
        if rng.random() < 0.4:
            every = [(r, c) for r in range(kernel[0]) for c in range(kernel[1])]
            taps = rng.sample(every, rng.randint(1, min(len(every), 20)))
        members.append(Branch(tuple(sorted(taps)), rng.choice((None, RELU))))
    concat = len(members) > 1 and rng.random() < 0.4
    return Conv2d(
        rng.randint(1, 2),
        channels,
        height,
        width,
        channels * (len(members) if concat else 1),
        kernel,
        stride,
        (top, left, bottom, right),
        groups=channels,
        branches=Branches(tuple(members), concat),
    )


def task_of(conv: Conv2d, rng: random.Random, cpu: Device) -> ConvTask:
    """In blocks, NHWC or rows, with or without halo, bias, residual and activation."""
    wider = tuple(p + rng.randint(0, 2) for p in conv.padding)
    lanes, k = cpu.lanes, conv.out_channels
    datas = (Layout(1), Layout(1, wider), Layout(lanes, wider), Layout(conv.in_channels, wider))  # type: ignore[arg-type]
    outs = (Layout(1), Layout(1, (1, 0, 2, 1)), Layout(lanes, (0, 2, 1, 1)), Layout(k))
    data, out = rng.choice(((0, 0), (0, 1), (1, 1), (2, 2), (2, 2), (3, 3), (3, 3), (0, 2), (2, 0)))
    residual = rng.choice((None, None, Layout(outs[out].block)))
    activation = rng.choice((None, RELU))
    return ConvTask(conv, datas[data], outs[out], rng.random() < 0.7, residual, activation)


def cases(seed: int, count: int, cpu: Device) -> Iterator[tuple[ConvTask, random.Random]]:
    """`count` tasks that a family takes."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        task = task_of(workload(rng), rng, cpu)
        if any(f.supports(task, cpu) is None for f in OWN):
            found += 1
            yield task, rng


def check(kernels: Kernels, seed: int, count: int) -> set[str]:
    """The default and one other setting of each family that takes a task; who took one."""
    cpu, taken = kernels.device, set()
    for task, rng in cases(seed, count, cpu):
        for f in OWN:
            if f.supports(task, cpu) is None:
                taken.add(f.name)
                others = [k for k in f.candidates(task, cpu) if k.rows * k.columns <= 12]
                for knobs in {f.default_knobs(task, cpu), rng.choice(others)}:
                    kernels.add(f, task, knobs, data_for(task, seed))
    kernels.check()
    return taken


@pytest.mark.parametrize("target", DEVICES)
def test_random_workloads(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    assert check(kernels_for(target), seed=3, count=10) == {f.name for f in OWN}


def test_two_threads() -> None:
    check(Kernels(device("host", 2)), seed=4, count=6)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("seed", range(20, 30))
def test_many_random_workloads(
    target: str, seed: int, kernels_for: Callable[[str], Kernels]
) -> None:
    """400 tasks in all."""
    check(kernels_for(target), seed, count=10)


def test_taps_as_runs_of_columns() -> None:
    """A sum of 3×3 filters of dilation 1, 2 and 3: the middle column, and three pairs."""
    taps = {tap for d in (1, 2, 3) for tap in grid(3, d, 7).taps}
    runs = runs_of(Branch(tuple(sorted(taps))))
    assert [(run.first, run.step, run.count, len(run.rows)) for run in runs] == [
        (0, 6, 2, 3),
        (1, 4, 2, 3),
        (2, 2, 2, 3),
        (3, 1, 1, 7),
    ]
    assert sorted(tap for run in runs for tap in run.taps) == sorted(taps)
    ragged = Branch(((0, 0), (0, 1), (0, 5), (1, 0)))
    assert sorted(tap for run in runs_of(ragged) for tap in run.taps) == sorted(ragged.taps)


D123 = Branches(tuple(Branch(grid(3, d, 7).taps, RELU) for d in (1, 2, 3)))
SUM = Conv2d(1, 64, 28, 28, 64, (7, 7), padding=(3, 3, 3, 3), groups=64, branches=D123)
PLAIN_FILTER = Conv2d(1, 64, 28, 28, 64, (7, 7), padding=(3, 3, 3, 3), groups=64)


def test_only_real_taps_are_counted() -> None:
    assert SUM.macs == 64 * 28 * 28 * 27
    assert SUM.kind == "depthwise branches ×3"
    assert str(SUM) == "64x28x28->64 k7x7 s1x1 p3,3,3,3 d1x1 g64 3x3:relu+3x3d2:relu+3x3d3:relu"


def test_who_takes_branches() -> None:
    """Families for one filter are not asked; those for several refuse one."""
    cpu = device()
    choice = strategy.choose(ConvTask(SUM, Layout(cpu.lanes, SUM.padding), Layout(cpu.lanes)), cpu)
    assert choice.family.name == "depthwise_branches"
    assert {name for name, _ in choice.refused} == {f.name for f in FAMILIES} - {
        "depthwise_branches"
    }
    task = ConvTask(PLAIN_FILTER, Layout(1), Layout(1))
    for f in OWN:
        assert "single filter" in str(f.supports(task, cpu))


@pytest.mark.parametrize(
    ("data", "out", "reason"),
    [
        (Layout(16), Layout(16), "no zeros around it"),
        (Layout(1, (3, 3, 3, 3)), Layout(16), "row-major input"),
        (Layout(16, (3, 3, 3, 3)), Layout(48), "neither NHWC"),
    ],
)
def test_blocks_say_why_not(data: Layout, out: Layout, reason: str) -> None:
    refusal = depthwise_branches.supports(ConvTask(SUM, data, out), device("x86-avx512"))
    assert reason in str(refusal)


def test_rows_say_why_not() -> None:
    cpu = device()
    assert "blocks" in str(
        depthwise_branch_rows.supports(ConvTask(SUM, Layout(16), Layout(16)), cpu)
    )
    large = Conv2d(
        1, 4, 99, 99, 4, (7, 7), groups=4, branches=Branches((grid(7, 1, 7), grid(7, 1, 7)))
    )
    task = ConvTask(large, Layout(1), Layout(1))
    assert "49 taps" in str(depthwise_branch_rows.supports(task, cpu))


TARGETS = {"x86-avx512": AVX512, "x86-avx2": AVX2, "raspberry-pi-5": NEON}


@pytest.mark.parametrize("target", TARGETS)
def test_hot_loops_keep_accumulators_in_registers(target: str) -> None:
    """In every innermost loop with multiply-adds: nothing stored but results."""
    cpu, isa = device(target, 1), TARGETS[target]
    task = ConvTask(SUM, Layout(cpu.lanes, SUM.padding), Layout(cpu.lanes), True)
    knobs = OWN[0].default_knobs(task, cpu)
    text = assembly.compiled(OWN[0], task, knobs, cpu)
    loops = [x for x in assembly.innermost_loops(text) if matching(x, isa.fma)]
    assert len(loops) >= 3
    tile = knobs.rows * knobs.columns
    for lines in loops:
        products = len(matching(lines, isa.fma))
        assert products % (3 * tile) == 0, (knobs, products)
        spills = [x for x in matching(lines, isa.stack) if re.search(isa.vector, x)]
        assert not [x for x in spills if re.search(isa.store, x)], (knobs, spills[:4])
        # eight sums and nine weights on AVX2's 16 registers: some weights are loaded again
        assert len(spills) <= products // 3, (knobs, len(spills))
        assert len(matching(lines, isa.store)) <= tile, knobs
