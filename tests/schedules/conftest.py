"""Kernels of any device for the tests of schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.schedules.emulation import EmulatedKernels, emulator
from tests.schedules.kernels import Kernels, device


@pytest.fixture
def kernels_for(tmp_path: Path) -> Callable[[str], Kernels]:
    """Kernels of a device, run here or under emulation; skips where there is neither."""

    def make(name: str) -> Kernels:
        cpu = device(name)
        if cpu.is_native:
            return Kernels(cpu)
        if emulator(cpu.arch) is None:
            pytest.skip(f"this machine can't run code for {name}, nor emulate it (CONTRIBUTING.md)")
        return EmulatedKernels(cpu, tmp_path)

    return make
