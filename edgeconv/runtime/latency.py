"""Latency of a callable: many samples, summarised by quantiles."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Samples in milliseconds, in the order they were taken; each is the mean of `calls` calls."""

    samples: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        """Median, ms."""
        return float(np.median(self.samples))

    @property
    def mean(self) -> float:
        """Arithmetic mean, ms."""
        return float(np.mean(self.samples))

    @property
    def p10(self) -> float:
        """10th percentile, ms."""
        return float(np.percentile(self.samples, 10))

    @property
    def p90(self) -> float:
        """90th percentile, ms."""
        return float(np.percentile(self.samples, 90))

    def to_json(self) -> dict[str, object]:
        """Summary and raw samples as JSON types."""
        return {
            "median_ms": self.median,
            "p10_ms": self.p10,
            "p90_ms": self.p90,
            "mean_ms": self.mean,
            "calls_per_sample": self.calls,
            "samples_ms": list(self.samples),
        }

    def __str__(self) -> str:
        return (
            f"median {self.median:.3f} ms (p10 {self.p10:.3f}, p90 {self.p90:.3f}, "
            f"mean {self.mean:.3f}; {len(self.samples)} samples)"
        )


def measure(
    call: Callable[[], object], *, warmup: int, repeat: int, min_repeat_ms: float
) -> Latency:
    """Time `call`: `warmup` untimed calls, then `repeat` samples of at least `min_repeat_ms` each.

    Raises:
        ValueError: a count is not positive, or negative.
    """
    if repeat < 1 or warmup < 0 or min_repeat_ms < 0:
        raise ValueError("repeat must be at least 1, warmup and min_repeat_ms at least 0")
    for _ in range(warmup):
        call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(1, round(min_repeat_ms * 1e-3 / once))
    samples = []
    for _ in range(repeat):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) * 1e3 / calls)
    return Latency(tuple(samples), calls)
