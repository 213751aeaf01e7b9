"""Kernels of two convolutions: random pairs, layouts and knobs; borders; machine code; refusals."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgeconv.layout import Layout
from edgeconv.schedules import pointwise_depthwise
from edgeconv.schedules.pairs import PAIRS, PairFamily, pair_family
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask, PairTask
from tests.schedules import assembly, pairs
from tests.schedules.assembly import AVX512, NEON, matching
from tests.schedules.kernels import DEVICES, Kernels, device

RELU = ("relu", ())


def settings(family: PairFamily, task: PairTask, rng: random.Random, cpu: Device) -> list[Any]:
    """The default, and any other."""
    others = list(family.candidates(task, cpu))
    return list(dict.fromkeys([family.default_knobs(task, cpu), rng.choice(others)]))


def check(kernels: Kernels, seed: int, count: int) -> None:
    taken = set()
    for family, task, rng in pairs.cases(seed, count, kernels.device):
        taken.add(family.name)
        for knobs in settings(family, task, rng, kernels.device):
            pairs.add(kernels, family, task, knobs, seed)
    assert taken == {family.name for family in PAIRS}
    kernels.check()


@pytest.mark.parametrize("target", DEVICES)
def test_random_pairs(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    check(kernels_for(target), seed=3, count=8)


@pytest.mark.parametrize("target", ["x86-avx512", "raspberry-pi-4"])
def test_what_is_worth_measuring_is_legal(target: str) -> None:
    """`has` says of any knobs whether they are among the candidates, without listing those."""
    cpu, rng = device(target, 2), random.Random(5)
    for family, task, _ in pairs.cases(6, 4, cpu):
        everything = set(family.candidates(task, cpu))
        promising = family.promising(task, cpu)
        assert family.default_knobs(task, cpu) in promising
        assert len(set(promising)) == len(promising)
        assert set(promising) <= everything
        for knobs in rng.sample(sorted(everything, key=str), min(20, len(everything))):
            others = [replace(knobs, strip=knobs.strip + 1), replace(knobs, rows=knobs.rows + 1)]
            for each in (knobs, *others):
                assert family.has(task, each, cpu) == (each in everything)


def test_two_threads() -> None:
    check(Kernels(device("host", 2)), seed=4, count=8)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("seed", range(20, 34))
def test_many_random_pairs(target: str, seed: int, kernels_for: Callable[[str], Kernels]) -> None:
    """More than 800 kernels in all."""
    check(kernels_for(target), seed, count=8)


def pair(
    kind: str,
    inputs: int,
    outputs: int,
    size: int,
    kernel: int,
    cpu: Device,
    stride: int = 1,
    padding: tuple[int, int, int, int] | None = None,
) -> PairTask:
    """Biases and ReLU in both; channel blocks."""
    p = padding or (kernel // 2,) * 4
    inner = outputs if kind == "pointwise_depthwise" else inputs
    window = ((kernel, kernel), (stride, stride), p, (1, 1), inner)
    filters = Conv2d(1, inner, size, size, inner, *window)
    if kind == "pointwise_depthwise":
        one, other = Conv2d(1, inputs, size, size, outputs, (1, 1)), filters
    else:
        side = (filters.out_height, filters.out_width)
        one, other = filters, Conv2d(1, inputs, *side, outputs, (1, 1))
    data = Layout(cpu.lanes, one.padding)
    return PairTask(
        ConvTask(one, data, Layout(1), True, None, RELU),
        ConvTask(other, Layout(1), Layout(cpu.lanes), True, None, RELU),
    )


def test_padding_wider_than_strips() -> None:
    """Strips that read padding only, and rows that several strips share."""
    cpu = device()
    kernels, family = Kernels(cpu), pair_family("pointwise_depthwise")
    tried = set()
    for sides in ((7, 3, 9, 0), (0, 0, 8, 8), (5, 5, 0, 1)):
        task = pair("pointwise_depthwise", 6, 20, 9, 7, cpu, padding=sides)
        default = family.default_knobs(task, cpu)
        height = task.second.conv.out_height
        for strip, rows, segments in ((1, 1, 1), (2, 3, 2), (3, 2, 1), (height, 4, 1)):
            knobs = replace(default, strip=strip, rows=rows, columns=2, segments=segments)
            knobs = replace(knobs, vectors=1, out_rows=1)
            tried.add(pointwise_depthwise.Space(task, knobs).strips)
            pairs.add(kernels, family, task, knobs)
    kernels.check()
    assert len(tried) > 2


@pytest.mark.parametrize("kind", [family.name for family in PAIRS])
@pytest.mark.parametrize("cores", [1, 2, 6])
def test_tiles_fit_into_strips(kind: str, cores: int) -> None:
    """However the rows are cut for the cores."""
    cpu, family = device("host", cores), pair_family(kind)
    for size, stride in ((6, 3), (7, 1), (9, 2)):
        task = pair(kind, 3, 20, size, 3, cpu, stride)
        tile_rows = "out_rows" if kind == "pointwise_depthwise" else "in_rows"
        found = list(family.candidates(task, cpu))
        assert found
        assert all(getattr(knobs, tile_rows) <= knobs.strip for knobs in found)


TARGETS = {"x86-avx512": AVX512, "raspberry-pi-4": NEON, "raspberry-pi-5": NEON}


@functools.cache
def loops(target: str, kind: str, kernel: int, cores: int) -> tuple[Any, list[list[str]]]:
    """Knobs, and the innermost loops with several multiply-adds."""
    cpu, family = device(target, cores), pair_family(kind)
    task = pair(kind, 64, 64, 28, kernel, cpu)
    knobs = family.default_knobs(task, cpu)
    text = assembly.kernel_text(family.build(task, knobs, cpu), 6, cpu)
    isa = TARGETS[target]
    found = assembly.innermost_loops(text)
    return knobs, [x for x in found if len(matching(x, isa.fma)) >= 8]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", [family.name for family in PAIRS])
@pytest.mark.parametrize("cores", [1, 2])
def test_hot_loops(target: str, kind: str, cores: int) -> None:
    """Both stages: as many multiply-adds as their tiles have, and no register spilled."""
    isa = TARGETS[target]
    knobs, found = loops(target, kind, 3, cores)
    product = knobs.rows * knobs.columns * knobs.vectors * knobs.quad
    tile = (
        (knobs.out_rows, knobs.out_columns)
        if kind == "pointwise_depthwise"
        else (knobs.in_rows, knobs.in_columns)
    )
    taps = tile[0] * tile[1] * 3 * (3 if knobs.unroll_kw else 1)
    counts = [len(matching(x, isa.fma)) for x in found]
    assert any(c % product == 0 for c in counts), (counts, knobs)
    assert any(c % taps == 0 for c in counts), (counts, knobs)
    for lines in found:
        spills = [x for x in matching(lines, isa.stack) if re.search(isa.vector, x)]
        assert not spills, (knobs, spills[:4])
        assert not matching(lines, isa.call)


BLOCKS = Layout(16)
POINTWISE = Conv2d(1, 16, 8, 8, 32, (1, 1))
DEPTHWISE = Conv2d(1, 32, 8, 8, 32, (3, 3), padding=(1, 1, 1, 1), groups=32)
BEFORE = Conv2d(1, 16, 8, 8, 16, (3, 3), padding=(1, 1, 1, 1), groups=16)


def refusal(kind: str, one: Conv2d, other: Conv2d, **layouts: Layout) -> str:
    data = layouts.get("data", BLOCKS.with_halo(one.padding))
    task = PairTask(
        ConvTask(one, data, Layout(1)), ConvTask(other, Layout(1), layouts.get("out", BLOCKS))
    )
    mismatch = pair_family(kind).supports(task, replace(device("x86-avx512")))
    return "" if mismatch is None else mismatch.reason


@pytest.mark.parametrize(
    ("kind", "one", "other", "layouts", "reason"),
    [
        ("pointwise_depthwise", POINTWISE, DEPTHWISE, {}, ""),
        ("depthwise_pointwise", BEFORE, POINTWISE, {}, ""),
        ("pointwise_depthwise", BEFORE, POINTWISE, {}, "the first is no pointwise"),
        ("depthwise_pointwise", POINTWISE, DEPTHWISE, {}, "the first is no depthwise"),
        ("pointwise_depthwise", replace(POINTWISE, groups=2), DEPTHWISE, {}, "no pointwise"),
        ("pointwise_depthwise", replace(POINTWISE, stride=(2, 2)), DEPTHWISE, {}, "no pointwise"),
        ("pointwise_depthwise", POINTWISE, replace(DEPTHWISE, height=9), {}, "something else"),
        ("pointwise_depthwise", POINTWISE, DEPTHWISE, {"out": Layout(12)}, "side by side"),
        (
            "pointwise_depthwise",
            POINTWISE,
            DEPTHWISE,
            {"out": Layout(1, (1, 1, 1, 1))},
            "row-major output",
        ),
        ("pointwise_depthwise", POINTWISE, DEPTHWISE, {"out": Layout(1)}, ""),
        ("depthwise_pointwise", BEFORE, POINTWISE, {"out": Layout(1)}, "side by side"),
        ("depthwise_pointwise", BEFORE, POINTWISE, {"data": BLOCKS}, "no zeros around it"),
        ("depthwise_pointwise", BEFORE, POINTWISE, {"data": Layout(1)}, "not in blocks"),
    ],
)
def test_refusals(
    kind: str, one: Conv2d, other: Conv2d, layouts: dict[str, Layout], reason: str
) -> None:
    said = refusal(kind, one, other, **layouts)
    assert reason in said
    assert bool(said) == bool(reason)


def test_every_row_is_found_by_name() -> None:
    names: Sequence[str] = [family.name for family in PAIRS]
    assert [pair_family(name) for name in names] == list(PAIRS)
    with pytest.raises(KeyError):
        pair_family("pointwise_pointwise")
