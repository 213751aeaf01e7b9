"""Grouped kernels on row-major maps: random workloads, layouts and knobs, and what they refuse."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgeconv.layout import Layout
from edgeconv.schedules import family, grouped_rows
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask
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
    """The default and one other setting of each task; the ways that were taken."""
    taken = set()
    for task, rng in cases(seed, count, kernels.device):
        legal = list(ROWS.candidates(task, kernels.device))
        for knobs in {ROWS.default_knobs(task, kernels.device), rng.choice(legal)}:
            kernels.add(ROWS, task, knobs)
            taken.add((knobs.flat, knobs.scratch))
    kernels.check()
    return taken


@pytest.mark.parametrize("target", DEVICES)
def test_random_workloads(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    taken = check(kernels_for(target), 1, 25)
    assert {flat for flat, _ in taken} == {True, False}
    assert {scratch for _, scratch in taken} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_random_workloads(
    target: str, seed: int, kernels_for: Callable[[str], Kernels]
) -> None:
    check(kernels_for(target), seed, 100)
