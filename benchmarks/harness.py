"""Times engines side by side: interleaved in one process, pinned, every output checked first."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE, Arrays, Bound

MAX_ERROR = 1e-4  # of the output's largest magnitude, for edgeconv
MAX_PEER_ERROR = 2e-3  # MNN's Winograd reaches 9e-4
ROUNDS = 15
FEWEST_CALLS = 5  # for a median
MOST_CALLS = 400  # of one engine in one round
WAITING = "waiting"  # what `starting` is told before another programme's lock is waited for


@dataclass(frozen=True)
class Timing:
    """One engine on one network: the milliseconds of every call that counts.

    Attributes:
        samples_ms: in the order of measurement.
        dropped: calls left out because another process took the core during them.
        disturbed: calls that count although one did: there were too few others.
        error: largest difference from the reference over its largest magnitude.
        prepare_s: seconds to convert and load.
    """

    samples_ms: tuple[float, ...]
    dropped: int = 0
    disturbed: int = 0
    error: float = 0.0
    prepare_s: float = 0.0

    @property
    def median_ms(self) -> float:
        """Median latency."""
        return float(np.median(self.samples_ms))

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON types."""
        low, high = np.percentile(self.samples_ms, [10, 90])
        return {
            "median_ms": _rounded(self.median_ms),
            "p10_ms": _rounded(low),
            "p90_ms": _rounded(high),
            "calls": len(self.samples_ms),
            "dropped": self.dropped,
            "disturbed": self.disturbed,
            "error": float(f"{self.error:.2g}"),
            "prepare_s": round(self.prepare_s, 2),
        }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _allowed() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _move(cores: Sequence[int]) -> None:
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task), set(cores))


class Cores:
    """Where this process works: it prepares on the cores that do not measure, if there are any.

    Args:
        threads: cores to measure on.
        lock: file locked while measuring, for machines where several programmes measure.
    """

    def __init__(self, threads: int, lock: Path | None = None) -> None:
        self.lock = lock
        self.movable = hasattr(os, "sched_setaffinity")
        allowed = _allowed() if self.movable else []
        self.measuring = allowed[-threads:]
        others = allowed[:-threads]  # engines count the cores they may use while they load
        self.preparing = others if len(others) >= threads else allowed
        if self.movable:
            _move(self.preparing)

    @contextlib.contextmanager
    def for_measuring(self) -> Iterator[None]:
        """Alone on the measuring cores, as far as the lock goes."""
        with contextlib.ExitStack() as stack:
            if self.lock is not None:
                file = stack.enter_context(self.lock.open("a"))
                fcntl.flock(file, fcntl.LOCK_EX)
            if self.movable:
                _move(self.measuring)
            try:
                yield
            finally:
                if self.movable:
                    _move(self.preparing)


def relative_error(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Largest difference over the largest magnitude, over all outputs; infinite if shapes differ
    or a value is no number.
    """
    if [a.shape for a in got] != [b.shape for b in wanted]:
        return float("inf")
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        scale = float(np.abs(b).max()) or 1.0
        error = float(np.abs(a - b).max()) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


@dataclass(frozen=True)
class Ready:
    """An engine that gave the right answer."""

    bound: Bound
    error: float
    prepare_s: float


Prepared = tuple[dict[str, Ready], dict[str, str]]


def prepare(
    path: Path,
    inputs: Arrays,
    engines: Sequence[str],
    threads: int,
    starting: Callable[[str], None] = lambda name: None,
) -> Prepared:
    """(engines whose output is the reference's, reasons of the others), each prepared and run.

    `starting` is told the name of each engine before anything of it is loaded.
    """
    ready: dict[str, Ready] = {}
    failed: dict[str, str] = {}
    starting(REFERENCE)
    reference = PEERS[REFERENCE].prepare(path, inputs, threads)
    reference.call()
    wanted = [a.copy() for a in reference.outputs()]
    for name in engines:
        starting(name)
        begin = time.perf_counter()
        try:
            bound = PEERS[name].prepare(path, inputs, threads) if name != REFERENCE else reference
            bound.call()
            error = relative_error(bound.outputs(), wanted)
        except Exception as problem:  # each engine raises its own kind
            failed[name] = f"{type(problem).__name__}: {str(problem)[:300]}"
            continue
        limit = MAX_ERROR if name == OWN else MAX_PEER_ERROR
        if error <= limit:
            ready[name] = Ready(bound, error, time.perf_counter() - begin)
        else:
            failed[name] = f"wrong result: relative error {error:.1e}"
    return ready, failed


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    *,
    rounds: int = ROUNDS,
    settle: float = 0.0,
    starting: Callable[[str], None] = lambda name: None,
) -> dict[str, tuple[list[float], list[float]]]:
    """(milliseconds of undisturbed calls, of disturbed ones) of each engine, in about `seconds`.

    In each round every engine runs a block of calls, the first to run another one each round. The
    first two calls of a block fetch the engine's data back into the caches and do not count. Calls
    are disturbed during which the system gave the core to another process.

    `settle` seconds pass before each block: threads of the engine before may still be spinning.
    """
    names = list(calls)
    estimates = {name: _estimate(calls[name], starting, name) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    disturbed: dict[str, list[float]] = {name: [] for name in names}
    total = 3 * sum(estimates.values())  # of a round with one counted call each
    rounds = max(5, min(rounds, int(seconds / total)))
    block = seconds / rounds / len(names)
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                starting(name)
                time.sleep(settle)
                count = max(1, min(MOST_CALLS, int(block / estimates[name]) - 2))
                _block(calls[name], count, samples[name], disturbed[name])
    finally:
        gc.enable()
    return {name: (samples[name], disturbed[name]) for name in names}


def _estimate(call: Callable[[], Any], starting: Callable[[str], None], name: str) -> float:
    """Seconds of a call, after some to warm up."""
    starting(name)
    for _ in range(2):
        call()
    begin, count = time.perf_counter(), 0
    while count < 2 or (time.perf_counter() - begin < 0.02 and count < MOST_CALLS):
        call()
        count += 1
    return (time.perf_counter() - begin) / count


def _block(
    call: Callable[[], Any], count: int, samples: list[float], disturbed: list[float]
) -> None:
    clock = time.perf_counter_ns
    for _ in range(2):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    for _ in range(count):
        begin = clock()
        call()
        taken = (clock() - begin) * 1e-6
        after = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        (samples if after == before else disturbed).append(taken)
        before = after


def timing(
    samples: Sequence[float], disturbed: Sequence[float], error: float, prepare_s: float
) -> Timing:
    """What counts: undisturbed calls, or all where those are too few."""
    if len(samples) >= FEWEST_CALLS:
        return Timing(tuple(samples), len(disturbed), 0, error, prepare_s)
    return Timing((*samples, *disturbed), 0, len(disturbed), error, prepare_s)


def measure(
    path: Path,
    engines: Sequence[str],
    threads: int,
    seconds: float,
    cores: Cores,
    starting: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """(timings, reasons of the engines without one) of a network on seeded random inputs."""
    inputs = random_inputs(onnx.load(path))
    ready, failed = prepare(path, inputs, engines, threads, starting)
    if not ready:
        return {}, failed
    starting(WAITING)
    with cores.for_measuring():
        timed = time_in_turns(
            {name: r.bound.call for name, r in ready.items()},
            seconds,
            settle=0.1 if threads > 1 else 0.0,
            starting=starting,
        )
    timings = {
        name: timing(*samples, ready[name].error, ready[name].prepare_s)
        for name, samples in timed.items()
    }
    return timings, failed


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> Arrays:
    """Seeded standard-normal inputs by name, in the model's order."""
    rng = np.random.default_rng(seed)
    known = {t.name for t in model.graph.initializer}
    return {
        i.name: rng.standard_normal(
            [d.dim_value for d in i.type.tensor_type.shape.dim], dtype=np.float32
        )
        for i in model.graph.input
        if i.name not in known
    }
