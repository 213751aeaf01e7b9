"""Where the time goes, layer by layer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeconv.build import Layer
from edgeconv.runtime.model import Model
from edgeconv.targets.probe import peak_gflops


@dataclass(frozen=True)
class ProfileRow:
    """One layer.

    Attributes:
        name, op, workload, schedule, knobs: as in `edgeconv explain`.
        ms: median time.
        share: fraction of the sum of all layers.
        gflops: GFLOP/s, 0 for layers without multiply-adds.
        peak: fraction of the measured multiply-add peak of the threads used.
        bytes: bytes read and written at least once.
    """

    name: str
    op: str
    workload: str
    schedule: str
    knobs: str
    ms: float
    share: float
    gflops: float
    peak: float
    bytes: int


@dataclass(frozen=True)
class Profile:
    """All layers in order, and the peak they are compared with (GFLOP/s)."""

    rows: tuple[ProfileRow, ...]
    peak_gflops: float

    @property
    def total_ms(self) -> float:
        """Sum of the layers."""
        return sum(r.ms for r in self.rows)

    def __str__(self) -> str:
        lines = [f"{'ms':>9} {'%':>5} {'GFLOP/s':>8} {'peak':>5}  layer"]
        for r in self.rows:
            speed = f"{r.gflops:8.1f} {r.peak:5.0%}" if r.gflops else f"{'':8} {'':5}"
            lines.append(f"{r.ms:9.4f} {r.share:5.1%} {speed}  {r.name}: {r.op} {r.workload}")
        return "\n".join(lines)


def profile(model: Model, inputs: Mapping[str, Any], repeat: int) -> Profile:
    """Run the network step by step `repeat` times; the median of each step.

    Raises:
        ValueError: `repeat` is not positive.
    """
    if repeat < 1:
        raise ValueError("repeat must be at least 1")
    call, layers = model.bind(inputs), model.manifest.layers
    call()
    count = len(layers)
    times = np.empty((repeat, count))
    clock = time.perf_counter
    for row in times:
        for i in range(count):
            start = clock()
            call.steps(i, i + 1)
            row[i] = clock() - start
    seconds = np.median(times, axis=0) - _call_overhead(call, count)
    return from_seconds(layers, seconds, peak_gflops(model.target) * model.threads)


def from_seconds(layers: Sequence[Layer], seconds: np.ndarray, peak: float) -> Profile:
    """The profile of layers that took so long; `peak` is that of all threads, in GFLOP/s."""
    seconds = np.maximum(seconds, 1e-9)
    total = float(seconds.sum())
    rows = []
    for layer, s in zip(layers, seconds, strict=True):
        gflops = float(2 * layer.macs / s / 1e9)
        rows.append(
            ProfileRow(
                layer.name,
                layer.op,
                layer.workload,
                layer.schedule,
                layer.knobs,
                float(s) * 1e3,
                float(s) / total,
                gflops,
                gflops / peak,
                layer.bytes,
            )
        )
    return Profile(tuple(rows), peak)


def _call_overhead(call: Any, count: int) -> float:
    """Seconds of a step call that runs no step."""
    times = []
    for _ in range(200):
        start = time.perf_counter()
        call.steps(count, count)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
