"""Kernels with checks stop at an index outside a buffer, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.schedules import emit
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.bounds import CheckedKernels
from tests.schedules.kernels import Data, device

SIZE = 12


def kernel(first: int, *, scratch: bool, reads: bool) -> Any:
    """Copies 12 floats, then reads or writes 4 from `first` on, of a parameter or of scratch."""

    def body() -> None:
        data = emit.planes("data", (1, 1, 1, SIZE))
        out = emit.planes("out", (1, 1, 1, SIZE))
        with emit.loops(n=1) as n, emit.block("all"):
            emit.spatial("vn", 1, n)
            held = emit.scratch("held", (1, 1, SIZE))
            with T.serial(0, SIZE) as i:
                emit.store(held, data[0, 0, i], [0, 0, i])
                emit.store(out, held[0, 0, i], [0, 0, i])
            with T.serial(first, first + 1) as i:
                there = [0, 0, Ramp(i, 1, 4)]
                other = held if scratch else (data if reads else out)
                here = [0, 0, Ramp(0, 1, 4)]
                if reads:
                    emit.store(out, other[tuple(there)], here)
                else:
                    emit.store(other, data[0, 0, Ramp(0, 1, 4)], there)

    return Schedule(emit.prim_func("copy", body)).mod["main"]


def run(first: int, *, scratch: bool, reads: bool) -> None:
    task = ConvTask(Conv2d(1, 1, 1, SIZE, 1, (1, 1)), Layout(1), Layout(1))
    x = np.zeros((1, 1, 1, SIZE), np.float32)
    kernels = CheckedKernels(device())
    data = Data(x, x, x, x, x)
    kernels.append("copy", kernel(first, scratch=scratch, reads=reads), [x], task, data, True)
    kernels.check()


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_inside(scratch: bool, reads: bool) -> None:
    for first in (0, SIZE - 4):
        run(first, scratch=scratch, reads=reads)


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("first", [-1, SIZE - 3])
def test_outside(first: int, scratch: bool, reads: bool) -> None:
    if reads and not scratch and first > 0:
        run(first, scratch=scratch, reads=reads)  # operands have a vector's slack behind them
        first = SIZE + 13
    with pytest.raises(IndexError):
        run(first, scratch=scratch, reads=reads)
