"""Every family on 32-bit ARM, hard-float: run by a small C program under QEMU, without any TVM
runtime, for which there are no wheels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeconv.clusters import Clusters
from edgeconv.layout import Layout
from edgeconv.schedules import FAMILIES, Family
from edgeconv.schedules.common import ceil_div
from edgeconv.strategy import refusal
from edgeconv.workload import Branch, Branches, Conv2d, ConvTask
from tests.schedules.kernels import Kernels, device
from tests.schedules.test_depthwise_branches import data_for, grid

ARM32 = "raspberry-pi-2"
MOST = 12  # kernels of a family; they are taken evenly from all
RELU = ("relu", ())
PAD = (1, 1, 1, 1)
HALVES = Clusters.of(np.kron(np.eye(2), np.ones((8, 8))))
BRANCHES = Branches((Branch(grid(3, 1, 5).taps, RELU), grid(3, 2, 5)))
CONVS = (
    Conv2d(1, 5, 5, 6, 18, (3, 2), padding=(1, 1, 1, 0)),
    Conv2d(2, 3, 7, 5, 16, (3, 3), (2, 1), (1, 0, 0, 1)),
    Conv2d(1, 9, 3, 4, 33, (1, 1)),
    Conv2d(1, 16, 6, 6, 20, (1, 1)),
    Conv2d(1, 4, 7, 8, 6, (2, 2), dilation=(2, 3)),
    Conv2d(1, 24, 4, 4, 40, (1, 3), padding=(0, 1, 0, 1), groups=2),
    Conv2d(1, 32, 4, 5, 32, (3, 1), padding=(1, 0, 1, 0), groups=8),
    Conv2d(1, 16, 3, 4, 32, (1, 1), groups=2, input_shuffle=4),
    Conv2d(1, 20, 4, 5, 20, (3, 3), padding=PAD, groups=20),
    Conv2d(1, 12, 9, 11, 12, (3, 3), (2, 2), PAD, groups=12),
    Conv2d(1, 8, 9, 17, 8, (5, 5), padding=(2, 2, 2, 2), groups=8),
    Conv2d(1, 8, 9, 10, 8, (3, 3), padding=PAD),
    Conv2d(1, 12, 13, 12, 20, (3, 3), padding=PAD, groups=2),
    Conv2d(1, 16, 14, 9, 24, (3, 3), padding=PAD),
    Conv2d(1, 16, 6, 6, 16, (1, 1), clusters=HALVES),
    Conv2d(1, 16, 5, 9, 16, (1, 1), clusters=HALVES),
    Conv2d(1, 16, 6, 6, 16, (3, 3), padding=PAD, clusters=HALVES),
    Conv2d(1, 12, 9, 10, 12, (5, 5), padding=(2, 2, 2, 2), groups=12, branches=BRANCHES),
    Conv2d(1, 12, 9, 10, 12, (5, 5), groups=12, branches=BRANCHES),
    Conv2d(1, 8, 7, 11, 8, (5, 5), groups=8, branches=BRANCHES),
)


def tasks(conv: Conv2d, lanes: int) -> list[ConvTask]:
    """In blocks of the vector width and in rows; bare, and with all that can be fused."""
    found = []
    for block_in, block_out in ((lanes, lanes), (1, lanes), (lanes, 1), (1, 1)):
        data, out = Layout(block_in, conv.padding), Layout(block_out)
        found.append(ConvTask(conv, data, out))
        found.append(ConvTask(conv, data, out, True, out, RELU))
        found.append(ConvTask(conv, data, out.with_halo((1, 2, 0, 1)), True, out, RELU))
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family(family: Family, kernels_for: Callable[[str], Kernels]) -> None:
    cpu = device(ARM32)
    kernels = kernels_for(ARM32)
    taken = [t for c in CONVS for t in tasks(c, cpu.lanes) if refusal(family, t, cpu) is None]
    assert len(taken) >= 4
    for task in taken[:: ceil_div(len(taken), MOST)]:
        data = None if task.conv.branches is None else data_for(task, 0)
        kernels.add(family, task, family.default_knobs(task, cpu), data)
    kernels.check()
