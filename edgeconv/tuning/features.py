"""Candidates as numbers for the cost model: the same columns for every family and task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeconv.schedules.common import ceil_div
from edgeconv.targets import Device
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.families import SCHEDULES
from edgeconv.workload import ConvTask, PairTask, PoolTask, Task

_NAMES = list(SCHEDULES)
KNOBS = sorted({field.name for f in SCHEDULES.values() for field in dataclasses.fields(f.knobs)})
_TASK = 12
_DERIVED = 7
COLUMNS = 1 + len(_NAMES) + len(KNOBS) + _DERIVED + _TASK


def features(task: Task, device: Device, candidates: Sequence[Candidate]) -> np.ndarray:
    """[candidate, column] of float32; NaN where a family has no such knob. The first candidate is
    the default, and column 0 the logarithm of the estimate over its own.
    """
    main = _main(task)
    about = _about_task(main, device)
    rows = np.full((len(candidates), COLUMNS), np.nan, np.float32)
    reference = 1.0
    for number, candidate in enumerate(candidates):
        cycles = max(candidate.estimate(task, device), 1.0)
        if number == 0:
            reference = cycles
        values = candidate.values
        row = [math.log(cycles / reference)]
        row += [float(candidate.family == name) for name in _NAMES]
        row += [float(values.get(name, math.nan)) for name in KNOBS]
        row += _derived(main, values)
        rows[number] = row + about
    return rows


def _main(task: Task) -> ConvTask:
    """Of two convolutions the pointwise one, which most of the work and the first tile are of; of a
    pool the convolution with its windows.
    """
    if isinstance(task, PoolTask):
        return ConvTask(task.window, task.data, task.out)
    if isinstance(task, PairTask):
        return next((c for c in task.convolutions if c.conv.is_pointwise), task.first)
    return task


def _derived(task: ConvTask, values: dict[str, Any]) -> list[float]:
    """What trees would have to multiply for themselves: sizes of tiles, and what they waste."""
    conv = task.conv
    rows, columns = values.get("rows", 1), values.get("columns", 1)
    vectors, lanes = values.get("vectors", 1), values.get("lanes", 1)
    tiles = values.get("tiles", 1)
    return [
        float(rows * columns * vectors),
        (rows * columns) / (rows * columns + vectors),
        _waste(conv.out_height, rows),
        _waste(conv.out_width, columns),
        _waste(conv.out_channels, vectors * lanes),
        _waste(tiles, rows),
        math.log2(ceil_div(conv.out_height, rows) * ceil_div(conv.out_width, columns)),
    ]


def _waste(extent: int, size: int) -> float:
    """What is computed twice where pieces of `size` cover `extent`."""
    return ceil_div(extent, size) * size / extent


def _about_task(task: ConvTask, device: Device) -> list[float]:
    conv = task.conv
    sizes = (
        *(conv.in_channels_per_group, conv.out_channels_per_group, conv.groups),
        *(conv.out_height, conv.out_width, conv.tap_rows * conv.kernel_size[1]),
        *(conv.stride[1], conv.dilation[1], max(task.data.block, 1), max(task.out.block, 1)),
    )
    return [*map(math.log2, sizes), math.log2(max(conv.macs, 1)), float(device.cores)]
