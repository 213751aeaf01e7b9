"""Kernels of any device for the tests of schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.schedules.bounds import CheckedKernels
from tests.schedules.emulation import EmulatedKernels, emulator
from tests.schedules.kernels import Kernels, device

CHECKED = "x86-sse4"  # whose kernels check indices in every run


@pytest.fixture
def kernels_for(tmp_path: Path) -> Callable[[str], Kernels]:
    """Kernels of a device, run here or under emulation; skips where there is neither. Those of one
    device stop at an index outside a buffer.
    """

    def make(name: str) -> Kernels:
        cpu = device(name)
        if cpu.is_native:
            return CheckedKernels(cpu) if name == CHECKED else Kernels(cpu)
        if emulator(cpu.arch) is None:
            pytest.skip(f"this machine can't run code for {name}, nor emulate it (CONTRIBUTING.md)")
        return EmulatedKernels(cpu, tmp_path)

    return make
