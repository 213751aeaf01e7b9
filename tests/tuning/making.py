"""Records and tasks for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tvm

from edgeconv.clusters import Clusters
from edgeconv.layout import Layout
from edgeconv.schedules import FAMILIES, Family, family
from edgeconv.targets import Device, load
from edgeconv.tuning import keys
from edgeconv.tuning.record import Record
from edgeconv.workload import Branch, Branches, Conv2d, ConvTask, Place, Slices

RELU = ("relu", ())


def device(name: str = "raspberry-pi-4", threads: int = 1) -> Device:
    """A device as the strategy sees it for some threads."""
    return dataclasses.replace(load(name), cores=threads)


def task(**changes: Any) -> ConvTask:
    """A dense 3×3 convolution in channel blocks of four, or a similar one."""
    values: dict[str, Any] = dict(kernel_size=(3, 3), padding=(1, 1, 1, 1))
    conv = Conv2d(1, 16, 12, 12, 16, **{**values, **changes})
    return ConvTask(conv, Layout(4, conv.padding), Layout(4), True, None, RELU)


def every_kind_of_task() -> list[ConvTask]:
    """Tasks that between them have a value in every field."""
    first = task()
    slices = Slices(4, 2, 3, 1, 1, 0, 0, 1, 2)
    return [
        first,
        task(groups=4, dilation=(2, 1), stride=(2, 2)),
        task(input_shuffle=4, padding=(-1, 0, 2, 1)),
        dataclasses.replace(first, residual=Layout(4, (1, 0, 2, 0)), bias=False),
        dataclasses.replace(first, activation=("clip", (("high", 6.0), ("low", None)))),
        dataclasses.replace(first, place=Place((25, 24), (1, 0), (2, 2))),
        ConvTask(Conv2d(2, 8, 5, 5, 8, (3, 3), slices=slices), Layout(4), Layout(8)),
        *structured_tasks(4),
    ]


def structured_tasks(block: int) -> list[ConvTask]:
    """Clusters of channels, and depthwise branches."""
    halves = Clusters.of(np.kron(np.eye(2), np.ones((8, 8))))
    branches = Branches((Branch(((0, 0), (2, 1))), Branch(((1, 1),), RELU)))
    changes: list[dict[str, Any]] = [
        dict(kernel_size=(1, 1), padding=(0, 0, 0, 0), clusters=halves),
        dict(padding=(0, 0, 0, 0), clusters=halves),
        dict(padding=(0, 0, 0, 0), groups=16, branches=branches),
    ]
    layouts = dict(data=Layout(block), out=Layout(block))
    return [dataclasses.replace(task(**change), **layouts) for change in changes]


def other_knobs(of: Family, for_task: ConvTask, on: Device) -> Any:
    """Legal knobs that are not the default."""
    default = of.default_knobs(for_task, on)
    return next(k for k in of.candidates(for_task, on) if k != default)


def record(
    for_task: ConvTask | None = None,
    on: Device | None = None,
    name: str = "grouped_spatial_pack",
    **changes: Any,
) -> Record:
    """A record that this version would use, with knobs that are not the default."""
    for_task, on = for_task or task(), on or device()
    of = family(name)
    return record_of(for_task, on, of, other_knobs(of, for_task, on), **changes)


def record_of(for_task: Any, on: Device, of: Any, knobs: Any, /, **changes: Any) -> Record:
    """A record of any task that this version would use."""
    values: dict[str, Any] = dict(
        task=for_task,
        family=of.name,
        knobs=knobs,
        median_us=10.5,
        spread_us=0.25,
        default_us=12.6,
        repeats=20,
        trials=117,
        numerics="fast",
        folder=keys.folder_of(on),
        profile=keys.profile(on),
        cpu_model="Cortex-A72",
        cores=4,
        threads=on.cores,
        edgeconv="0.1.0",
        tvm=tvm.__version__,
        source=keys.source_hash(of),
        date="2026-11-21T10:00:00+00:00",
    )
    return Record(**{**values, **changes})


def supporting(for_task: ConvTask, on: Device) -> list[str]:
    """Names of the families that take a task."""
    return [f.name for f in FAMILIES if f.supports(for_task, on) is None]
