"""The convolution families: one file each, one row each. Everything else is generated from the
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv.schedules import (
    channel_clusters,
    channel_strassen,
    depthwise_blocks,
    depthwise_branch_rows,
    depthwise_branches,
    depthwise_rows,
    grouped_conv2d,
    grouped_rows,
    lane_groups,
    planar_clusters,
    planar_pointwise,
    planar_strassen,
    winograd,
)
from edgeconv.schedules.common import Mismatch
from edgeconv.targets import Device
from edgeconv.workload import ConvTask


@dataclass(frozen=True)
class Family:
    """One row: a name and the functions of its module (see grouped_conv2d for their contracts)."""

    name: str
    title: str
    exact: bool  # sums the products of the definition, in some order
    slices: bool  # takes `Conv2d.slices`
    branches: bool  # takes `Conv2d.branches`
    knobs: type[Any]  # the dataclass of its settings
    supports: Callable[[ConvTask, Device], Mismatch | None]
    candidates: Callable[[ConvTask, Device], Iterator[Any]]
    estimate: Callable[[ConvTask, Any, Device], float]
    pack_weights: Callable[[ConvTask, Any, np.ndarray], np.ndarray]
    pack_bias: Callable[[ConvTask, Any, np.ndarray], np.ndarray]
    compute: Callable[[ConvTask, Any], tirx.PrimFunc]
    schedule: Callable[[Schedule, ConvTask, Any, Device], Schedule]

    def default_knobs(self, task: ConvTask, device: Device) -> Any:
        """The candidate with the least estimated cycles: no measuring."""
        return min(
            self.candidates(task, device),
            key=lambda knobs: self.estimate(task, knobs, device),
        )

    def build(self, task: ConvTask, knobs: Any, device: Device) -> tirx.PrimFunc:
        """The scheduled kernel `(data, weight, [bias], [residual], out)`."""
        sch = Schedule(self.compute(task, knobs))
        return self.schedule(sch, task, knobs, device).mod["main"]


def _family(
    name: str,
    title: str,
    module: Any,
    *,
    exact: bool = True,
    slices: bool = False,
    branches: bool = False,
) -> Family:
    own = ("name", "title", "exact", "slices", "branches", "knobs")
    functions = {f: getattr(module, f) for f in Family.__dataclass_fields__ if f not in own}
    return Family(name, title, exact, slices, branches, module.Knobs, **functions)


FAMILIES: tuple[Family, ...] = (
    _family(
        "grouped_spatial_pack",
        "Grouped Spatial Pack (Gibson et al. 2020)",
        grouped_conv2d,
        slices=True,
    ),
    _family(
        "lane_groups",
        "Several narrow groups in one vector, lanes permuted",
        lane_groups,
        slices=True,
    ),
    _family("planar_pointwise", "Matrix product on NCHW maps", planar_pointwise),
    _family("planar_strassen", "Strassen's product on NCHW maps", planar_strassen, exact=False),
    _family(
        "channel_strassen",
        "Strassen's product in channel blocks",
        channel_strassen,
        exact=False,
    ),
    _family("grouped_rows", "Grouped on NCHW, vectors along the pixels", grouped_rows),
    _family("planar_clusters", "Clusters of channels, pointwise on NCHW maps", planar_clusters),
    _family("channel_clusters", "Clusters of channels in channel blocks", channel_clusters),
    _family("depthwise_rows", "Depthwise on NCHW, vectors along the width", depthwise_rows),
    _family("depthwise_blocks", "Depthwise in channel blocks, NCHW transposed", depthwise_blocks),
    _family(
        "depthwise_branches",
        "Several depthwise filters in one pass, in channel blocks",
        depthwise_branches,
        branches=True,
    ),
    _family(
        "depthwise_branch_rows",
        "Several depthwise filters in one pass, on NCHW rows",
        depthwise_branch_rows,
        branches=True,
    ),
    _family("winograd", "Winograd F(4x4, 3x3) and F(2x2, 3x3)", winograd, exact=False),
)


def family(name: str) -> Family:
    """The family called `name`; KeyError if there is none."""
    return next(f for f in FAMILIES if f.name == name)
