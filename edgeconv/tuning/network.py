"""The whole network before and after, in turns: outputs equal, faster or not, layer by layer.

Kernels were measured alone; here they run among each other, with the caches as they are then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeconv import artifact
from edgeconv.runtime import Model
from edgeconv.runtime.model import random_arrays
from edgeconv.tuning import bench

ROUNDS = 21
BLOCK_S = 0.05
STEP_ROUNDS = 11
MAX_ERROR = 2e-4  # of the output's largest magnitude; each form may be off by half of that
WRONG = "the outputs differ"


@dataclass(frozen=True)
class Comparison:
    """Two compiled forms of a network.

    Attributes:
        error: largest difference of their outputs, relative to the largest output.
        before_ms, after_ms: of a run, one in each round.
        before_steps_us, after_steps_us: of each layer, median.
        untimed: why there are no times; empty if there are.
    """

    error: float
    before_ms: tuple[float, ...] = ()
    after_ms: tuple[float, ...] = ()
    before_steps_us: tuple[float, ...] = ()
    after_steps_us: tuple[float, ...] = ()
    untimed: str = ""

    @property
    def speedup(self) -> float:
        """Median over the rounds of the time before over the time after."""
        pairs = zip(self.before_ms, self.after_ms, strict=True)
        return float(np.median([before / after for before, after in pairs]))

    @property
    def noise(self) -> float:
        """Two standard errors of `speedup`."""
        pairs = zip(self.before_ms, self.after_ms, strict=True)
        ratios = np.array([before / after for before, after in pairs])
        deviation = 1.4826 * float(np.median(np.abs(ratios - np.median(ratios))))
        return 2 * 1.2533 * deviation / float(np.sqrt(len(ratios)))


class Timed(Protocol):
    """A network that can be timed, here or on a board."""

    untimed: str

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference."""

    def block(self, seconds: float) -> float:
        """Milliseconds of a run, mean over a block of about `seconds`."""

    def steps(self) -> Sequence[float]:
        """Seconds of each layer, in one run."""


class Local:
    """A network in this process."""

    untimed = ""

    def __init__(self, path: str, inputs: dict[str, np.ndarray]) -> None:
        self._model = Model(artifact.read(path))
        self._call = self._model.bind(inputs)
        self._runs = 1

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Timed`."""
        return self._model.run(inputs)

    def block(self, seconds: float) -> float:
        """See `Timed`."""
        begin = time.perf_counter()
        for _ in range(self._runs):
            self._call()
        taken = (time.perf_counter() - begin) / self._runs
        self._runs = max(1, min(10_000, int(seconds / max(taken, 1e-9))))
        return taken * 1e3

    def steps(self) -> list[float]:
        """See `Timed`."""
        clock, found = time.perf_counter, []
        for i in range(len(self._model.manifest.layers)):
            begin = clock()
            self._call.steps(i, i + 1)
            found.append(clock() - begin)
        return found


def compare(before: str, after: str, note: Callable[[Any], None]) -> Comparison:
    """Both artifacts on the device this process measures on, on seeded random inputs."""
    inputs = random_arrays(artifact.read(before).manifest.inputs, 0)
    open_ = bench.session().network
    first, second = (open_(path, inputs) for path in (before, after))
    error = _error(first.run(inputs), second.run(inputs))
    if first.untimed or error > MAX_ERROR:
        return Comparison(error, untimed=WRONG if error > MAX_ERROR else first.untimed)
    times: tuple[list[float], list[float]] = ([], [])
    both = (first, second)
    for number in range(ROUNDS + 2):  # two to warm up
        note(number)
        for turn in (number % 2, 1 - number % 2):
            times[turn].append(both[turn].block(BLOCK_S))
    steps: tuple[list[Any], list[Any]] = ([], [])
    for number in range(STEP_ROUNDS + 1):
        note(number)
        for turn in (number % 2, 1 - number % 2):
            both[turn].steps()  # the caches are the other one's
            steps[turn].append(both[turn].steps())
    before_us, after_us = (tuple(np.median(s[1:], axis=0) * 1e6) for s in steps)
    return Comparison(error, tuple(times[0][2:]), tuple(times[1][2:]), before_us, after_us)


def _error(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    worst = 0.0
    for name, wanted in first.items():
        if not wanted.size:
            continue
        a, b = wanted.astype(np.float64), second[name].astype(np.float64)
        scale = float(np.abs(a).max()) or 1.0
        error = float(np.abs(a - b).max()) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst
