"""Random pairs of pointwise and depthwise convolutions, their values, and kernels of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgeconv.layout import Halo, Layout
from edgeconv.schedules.pairs import PAIRS, PairFamily
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask, PairTask
from tests.schedules.kernels import Data, Kernels, pack, whole_numbers

RELU = ("relu", ())
CHANNELS = (2, 3, 5, 8, 12, 15, 16, 17, 20, 33, 40)
KERNELS = ((3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (5, 2), (4, 1))


def depthwise(rng: random.Random, channels: int) -> Conv2d:
    """Odd sizes, unequal stride, dilation and padding."""
    kernel = rng.choice(KERNELS)
    stride = (rng.randint(1, 3), rng.randint(1, 3)) if rng.random() < 0.4 else (1, 1)
    dilation = (rng.choice((1, 1, 1, 2, 3)), rng.choice((1, 1, 1, 2, 3)))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    top, left, bottom, right = (rng.randint(0, extents[s % 2] // 2 + 1) for s in range(4))
    height = max(1, extents[0] - top - bottom) + rng.randint(0, 20)
    width = max(1, extents[1] - left - right) + rng.randint(0, 20)
    sides = (top, left, bottom, right)
    batch = rng.choice((1, 1, 2))
    return Conv2d(
        batch, channels, height, width, channels, kernel, stride, sides, dilation, channels
    )


def workload(rng: random.Random, *, pointwise_first: bool) -> tuple[Conv2d, Conv2d]:
    """A pair in either order."""
    inner, outer = rng.choice(CHANNELS), rng.choice(CHANNELS)
    filters = depthwise(rng, inner)
    n, h, w = filters.batch, filters.height, filters.width
    if pointwise_first:
        return Conv2d(n, outer, h, w, inner, (1, 1)), filters
    return filters, Conv2d(n, inner, filters.out_height, filters.out_width, outer, (1, 1))


def task_of(rng: random.Random, cpu: Device, *, pointwise_first: bool) -> PairTask:
    """With or without halos, biases, activations and residual; in vectors, NHWC or NCHW."""
    one, other = workload(rng, pointwise_first=pointwise_first)
    lanes, last = cpu.lanes, other.out_channels
    top, left, bottom, right = (p + rng.randint(0, 2) for p in one.padding)
    halo: Halo = (top, left, bottom, right)
    block = rng.choice((lanes, lanes, 1, one.in_channels)) if pointwise_first else lanes
    rows = pointwise_first and rng.random() < 0.25
    out = Layout(rng.choice((lanes, lanes, lanes, last)), rng.choice(((0, 0, 0, 0), (1, 0, 2, 1))))
    residual = rng.choice((None, None, Layout(out.block), out))
    if rows:
        out, residual = Layout(1), None
    first = ConvTask(
        one,
        Layout(block, halo),
        Layout(1),
        rng.random() < 0.7,
        None,
        rng.choice((None, RELU)),
    )
    activation = rng.choice((None, RELU))
    return PairTask(
        first, ConvTask(other, Layout(1), out, rng.random() < 0.7, residual, activation)
    )


def cases(
    seed: int, count: int, cpu: Device
) -> Iterator[tuple[PairFamily, PairTask, random.Random]]:
    """`count` tasks that a family takes, both orders in turn."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        task = task_of(rng, cpu, pointwise_first=found % 2 == 0)
        for family in PAIRS:
            if family.supports(task, cpu) is None:
                found += 1
                yield family, task, rng


def values(task: PairTask, seed: int = 0) -> tuple[Data, Data]:
    """Whole numbers for both halves; what the second is to make is exact in float32.

    The second's padding is zeros around the first's result, bias and activation included.
    """
    plain = {"data": Layout(1), "out": Layout(1), "residual": None}
    first = whole_numbers(replace(task.first, **plain), seed)
    second = replace(task.second, **plain)
    between = first.wanted
    return first, whole_numbers(replace(second, residual=task.second.residual), seed + 1, between)


def add(kernels: Kernels, family: PairFamily, task: PairTask, knobs: Any, seed: int = 0) -> None:
    """Append the kernel of a pair."""
    first, second = values(task, seed)
    biases = [d.bias if t.bias else None for d, t in ((first, task.first), (second, task.second))]
    arrays = [pack(first.x, task.first.data)]
    arrays += family.pack(task, knobs, [first.weight, second.weight], biases)
    if task.second.residual is not None:
        arrays.append(pack(second.residual, task.second.residual))
    function = family.build(task, knobs, kernels.device)
    title = f"{family.name} {task} {knobs}"
    kernels.append(title, function, arrays, task.second, second, True)
