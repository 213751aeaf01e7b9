"""How steady the machine is: a fixed loop of multiply-adds, timed between the rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgeconv.benchmarks.statistics import drift
from edgeconv.targets import Device
from edgeconv.targets.probe import multiply_add_loop

MOST_DRIFT = 0.10
MOST_DISTURBED = 0.25
_CALLS = 7  # of the loop each time; their median counts


def clock(device: Device) -> Callable[[], float]:
    """A function that times the loop once: milliseconds, about 0.03 of them on a fast core."""
    loop = multiply_add_loop(device)

    def once() -> float:
        begin = time.perf_counter()
        loop()
        return (time.perf_counter() - begin) * 1e3

    return lambda: statistics.median(once() for _ in range(_CALLS))


def to_json(loop_ms: Sequence[float], disturbed: float = 0.0) -> dict[str, Any]:
    """What the loop showed: milliseconds before every round, drift, and the verdict.

    Args:
        disturbed: share of the engines' calls during which another process took the core.
    """
    found = drift(loop_ms) if loop_ms else 0.0
    return {
        "loop_ms": " ".join(f"{x:.4g}" for x in loop_ms),
        "drift": round(found, 4),
        "disturbed": round(disturbed, 4),
        "noisy": found > MOST_DRIFT or disturbed > MOST_DISTURBED,
    }


def sentence(noise: dict[str, Any]) -> str:
    """Why a measurement is not to be trusted."""
    if noise["drift"] > MOST_DRIFT:
        reason = (
            f"a fixed loop of multiply-adds took {noise['drift']:.0%} longer in some rounds than "
            f"in others (limit {MOST_DRIFT:.0%})"
        )
    else:
        reason = (
            f"other processes took the core during {noise['disturbed']:.0%} of the calls (limit "
            f"{MOST_DISTURBED:.0%})"
        )
    return (
        f"the machine was not steady: {reason}; end other programs, fix the clock, or measure "
        "again later"
    )
