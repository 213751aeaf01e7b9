"""Measuring on a board: what `bench.Session` does, over a session of `edgeconv.device`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeconv import artifact, device
from edgeconv.device import Address, RemoteModel
from edgeconv.device.lending import groups
from edgeconv.targets import Device
from edgeconv.tuning import bench

STEP_RUNS = 3


class BoardSession(bench.Session):
    """A board, held until this process ends. Times are those of its own clock."""

    def __init__(self, address: str, timeout_s: float) -> None:
        """Connect.

        Raises:
            DeviceError: nobody there, or no board free within the timeout.
        """
        self._board = device.session(address, timeout_s)
        self._count = 0

    def threads(self, count: int) -> None:
        """See `bench.Session`."""
        self._board.threads(count)

    def load(self, library: bytes, device: Device) -> Any:
        """See `bench.Session`."""
        self._count += 1
        name = self._board.upload(library, f"tune{self._count}.so")
        module = self._board.load(name, device)
        self._board.remove(name)
        return module

    def tensor(self, array: np.ndarray) -> Any:
        """See `bench.Session`."""
        return self._board.tensor(np.ascontiguousarray(array).reshape(-1))

    def write(self, tensor: Any, array: np.ndarray) -> None:
        """See `bench.Session`."""
        self._board.write(tensor, array)

    def read(self, tensor: Any) -> np.ndarray:
        """See `bench.Session`."""
        return self._board.read(tensor)

    def timer(
        self, module: Any, symbol: str, before: Sequence[Any], after: Sequence[int]
    ) -> Callable[[int], float]:
        """See `bench.Session`."""
        return lambda calls: self._board.time(module, symbol, [*before, calls, *after])[0]

    def network(self, path: str, inputs: dict[str, np.ndarray]) -> BoardNetwork:
        """See `bench.Session`."""
        return BoardNetwork(RemoteModel(artifact.read(path), self._board))


class BoardNetwork:
    """A network on a board; see `network.Timed`."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model
        emulated = model.info.emulated
        self.untimed = "the board is emulated, so its times mean nothing" if emulated else ""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `network.Timed`."""
        return self._model.run(inputs)

    def block(self, seconds: float) -> float:
        """See `network.Timed`."""
        latency = self._model.benchmark(warmup=0, repeat=1, min_repeat_ms=seconds * 1e3)
        return latency.median

    def steps(self) -> list[float]:
        """See `network.Timed`."""
        return list(np.median(self._model.step_times(STEP_RUNS)[:, :-1], axis=0))


def boards_at(address: Address, timeout_s: float) -> int:
    """How many boards there are: those that are registered with the tracker under the key."""
    if not address.key:
        return 1
    found = [g for g in groups(address, timeout_s) if g.key == address.key]
    return max(1, sum(len(g.boards) for g in found))
