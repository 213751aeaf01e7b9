"""The families of two convolutions in one kernel: one file each, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv.schedules import depthwise_pointwise, pointwise_depthwise
from edgeconv.schedules.common import Mismatch
from edgeconv.targets import Device
from edgeconv.workload import PairTask

Arrays = Sequence[np.ndarray]
Biases = Sequence[np.ndarray | None]


@dataclass(frozen=True)
class PairFamily:
    """One row: a name and the functions of its module; see `Family`.

    `pack` returns all constants in the order of the kernel's parameters.
    """

    name: str
    title: str
    supports: Callable[[PairTask, Device], Mismatch | None]
    candidates: Callable[[PairTask, Device], Iterator[Any]]
    default_knobs: Callable[[PairTask, Device], Any]
    estimate: Callable[[PairTask, Any, Device], float]
    pack: Callable[[PairTask, Any, Arrays, Biases], list[np.ndarray]]
    compute: Callable[[PairTask, Any], tirx.PrimFunc]
    schedule: Callable[[Schedule, PairTask, Any, Device], Schedule]

    def build(self, task: PairTask, knobs: Any, device: Device) -> tirx.PrimFunc:
        """The scheduled kernel `(data, weight, [bias], weight, [bias], [residual], out)`."""
        sch = Schedule(self.compute(task, knobs))
        return self.schedule(sch, task, knobs, device).mod["main"]


def _family(name: str, title: str, module: Any) -> PairFamily:
    functions = [f for f in PairFamily.__dataclass_fields__ if f not in ("name", "title")]
    return PairFamily(name, title, **{f: getattr(module, f) for f in functions})


PAIRS: tuple[PairFamily, ...] = (
    _family("pointwise_depthwise", "Pointwise, then depthwise, by strips", pointwise_depthwise),
    _family("depthwise_pointwise", "Depthwise, then pointwise, by strips", depthwise_pointwise),
)


def pair_family(name: str) -> PairFamily:
    """The family called `name`; KeyError if there is none."""
    found = {f.name: f for f in PAIRS}
    return found[name]
