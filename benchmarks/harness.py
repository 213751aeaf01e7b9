"""Times engines side by side: interleaved in one process, pinned, every output checked first."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgeconv.benchmarks.engines import Arrays, Engine
from edgeconv.errors import EdgeconvError

MAX_ERROR = 1e-4  # of the output's largest magnitude


@dataclass(frozen=True)
class Result:
    """One engine on one network: all rounds in ms, and the error against the reference."""

    engine: str
    samples_ms: tuple[float, ...]
    error: float

    @property
    def median_ms(self) -> float:
        """Median latency."""
        return float(np.median(self.samples_ms))

    def to_json(self) -> dict[str, object]:
        """Summary and raw samples as JSON types."""
        return {
            "engine": self.engine,
            "median_ms": round(self.median_ms, 4),
            "relative_error": self.error,
            "samples_ms": [round(s, 4) for s in self.samples_ms],
        }


def pin(threads: int) -> None:
    """Keep this process on the last `threads` cores it may use."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(cores[-threads:]))


def relative_error(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Largest difference over the largest magnitude, over all outputs."""
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        scale = float(np.abs(b).max()) or 1.0
        worst = max(worst, float(np.abs(a - b).max()) / scale)
    return worst


def interleave(engines: Sequence[Engine], reference: Engine, seconds: float) -> list[Result]:
    """Run the engines in turns for about `seconds` in all.

    Raises:
        EdgeconvError: edgeconv's result is not the reference's.
    """
    reference.call()
    wanted = reference.outputs()
    errors, estimates = [], []
    for engine in engines:
        engine.call()
        errors.append(relative_error(engine.outputs(), wanted))
        start = time.perf_counter()
        engine.call()
        estimates.append(time.perf_counter() - start)
        if engine.name == "edgeconv" and not errors[-1] <= MAX_ERROR:
            raise EdgeconvError(f"wrong result: relative error {errors[-1]:.1e}; please report it")
    rounds = max(5, min(200, int(seconds / sum(estimates))))
    samples: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, times in zip(engines, samples, strict=True):
            start = time.perf_counter()
            engine.call()
            times.append((time.perf_counter() - start) * 1e3)
    return [
        Result(engine.name, tuple(times), error)
        for engine, times, error in zip(engines, samples, errors, strict=True)
    ]


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> Arrays:
    """Seeded inputs for the model, as edgeconv makes them."""
    from edgeconv.artifact import TensorSpec
    from edgeconv.importer import import_model, read_model
    from edgeconv.runtime.model import random_arrays

    graph = import_model(read_model(model))
    specs = tuple(TensorSpec(v.name, v.shape, v.dtype) for v in graph.inputs)
    return random_arrays(specs, seed)


__all__ = ["MAX_ERROR", "Result", "interleave", "pin", "random_inputs"]
