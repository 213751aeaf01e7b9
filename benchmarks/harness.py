"""Times engines side by side: interleaved in one process, pinned, every output checked first."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeconv import targets
from edgeconv.benchmarks import noise, statistics
from edgeconv.benchmarks.peers import OURS, OWN, PEERS, REFERENCE, Arrays, Bound
from edgeconv.benchmarks.rounds import Pace, Samples, interleave
from edgeconv.errors import EdgeconvError

MAX_ERROR = 1e-4  # of the output's largest magnitude, for edgeconv
MAX_PEER_ERROR = 2e-3  # MNN's Winograd reaches 9e-4
ROUNDS = 15
FEWEST_CALLS = 5  # for a median
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
        by_round: the same milliseconds, by round; one round where that is not known.
        text: all calls, those left out too; see `statistics.samples_to_text`.
    """

    samples_ms: tuple[float, ...]
    dropped: int = 0
    disturbed: int = 0
    error: float = 0.0
    prepare_s: float = 0.0
    by_round: tuple[tuple[float, ...], ...] = ()
    text: str = ""

    @property
    def median_ms(self) -> float:
        """Median latency."""
        return float(np.median(self.samples_ms))

    def to_json(self, samples: bool = False) -> dict[str, Any]:
        """The summary as JSON types; with `samples` every single call too."""
        low, high = np.percentile(self.samples_ms, [10, 90])
        interval = statistics.median(self.by_round or (self.samples_ms,))
        return {
            "median_ms": _rounded(self.median_ms),
            "interval_ms": interval.to_json()[1:],
            "p10_ms": _rounded(low),
            "p90_ms": _rounded(high),
            "calls": len(self.samples_ms),
            "rounds": sum(map(bool, self.by_round)),
            "dropped": self.dropped,
            "disturbed": self.disturbed,
            "error": float(f"{self.error:.2g}"),
            "prepare_s": round(self.prepare_s, 2),
            **({"samples_ms": self.text} if samples else {}),
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
        with locked(self.lock):
            if self.movable:
                _move(self.measuring)
            try:
                yield
            finally:
                if self.movable:
                    _move(self.preparing)


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Alone among the programmes that lock this file; None: no lock."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def max_error(engine: str) -> float:
    """Relative error up to which an engine's result is the reference's."""
    return MAX_ERROR if engine in OURS else MAX_PEER_ERROR


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
    reference, wanted = reference_results(path, inputs, threads)
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
        if error <= max_error(name):
            ready[name] = Ready(bound, error, time.perf_counter() - begin)
        else:
            failed[name] = f"wrong result: relative error {error:.1e}"
    return ready, failed


def reference_results(
    path: Path, inputs: Arrays, threads: int = 1
) -> tuple[Bound, list[np.ndarray]]:
    """(the reference, its results), which every other result is compared with.

    Raises:
        EdgeconvError: it can't run the network.
    """
    try:
        bound = PEERS[REFERENCE].prepare(path, inputs, threads)
        bound.call()
        return bound, [a.copy() for a in bound.outputs()]
    except Exception as error:  # of its own kinds
        reason = " ".join(str(error).split())[:300]
        raise EdgeconvError(f"{PEERS[REFERENCE].title} can't run the network: {reason}") from error


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    *,
    rounds: int = ROUNDS,
    settle: float = 0.0,
    starting: Callable[[str], None] = lambda name: None,
) -> dict[str, tuple[list[float], list[float]]]:
    """(milliseconds of undisturbed calls, of disturbed ones) of each engine, in about `seconds`;
    see `rounds.interleave`.
    """
    timed = interleave(calls, Pace(rounds, seconds), settle=settle, starting=starting)
    return {name: (_flat(s.undisturbed), _flat(s.disturbed)) for name, s in timed.items()}


def _flat(by_round: Sequence[Sequence[float]]) -> list[float]:
    return [ms for calls in by_round for ms in calls]


def timing(
    samples: Sequence[float], disturbed: Sequence[float], error: float, prepare_s: float
) -> Timing:
    """What counts: undisturbed calls, or all where those are too few."""
    return timing_by_round(Samples([list(samples)], [list(disturbed)]), error, prepare_s)


def timing_by_round(samples: Samples, error: float, prepare_s: float) -> Timing:
    """What counts: undisturbed calls, or all where those are too few."""
    good, bad = samples.undisturbed, samples.disturbed
    few = sum(map(len, good)) < FEWEST_CALLS
    counted = [[*g, *b] for g, b in zip(good, bad, strict=True)] if few else good
    left_out = sum(map(len, bad))
    return Timing(
        tuple(_flat(counted)),
        0 if few else left_out,
        left_out if few else 0,
        error,
        prepare_s,
        tuple(map(tuple, counted)),
        statistics.samples_to_text(good, bad),
    )


@dataclass(frozen=True)
class Measured:
    """One network on all engines.

    Attributes:
        timings: of the engines whose output is the reference's.
        failed: reasons of the others.
        loop_ms: a fixed loop of multiply-adds, timed before every round.
        layers: rows of edgeconv's profile; empty if none was asked for.
    """

    timings: dict[str, Timing]
    failed: dict[str, str]
    loop_ms: list[float]
    layers: list[dict[str, Any]]

    @property
    def disturbed(self) -> float:
        """Share of all calls during which another process took the core."""
        bad = sum(t.dropped + t.disturbed for t in self.timings.values())
        calls = sum(t.dropped + len(t.samples_ms) for t in self.timings.values())
        return bad / calls if calls else 0.0

    def to_json(self, samples: bool = True) -> dict[str, Any]:
        """{"engines": ..., "noise": ..., "layers": ...}; engines have their ratios by paired
        rounds, to edgeconv's time and to that of the fastest: [median, low, high].
        """
        engines = {name: t.to_json(samples) for name, t in self.timings.items()}
        fastest = min(self.timings, key=lambda n: self.timings[n].median_ms, default="")
        for key, base in (("ratio", OWN), ("ratio_fastest", fastest)):
            if base in self.timings:
                for name, t in self.timings.items():
                    found = statistics.paired_ratio(t.by_round, self.timings[base].by_round)
                    engines[name][key] = None if found is None else found.to_json()
        engines.update({name: {"failed": reason} for name, reason in self.failed.items()})
        made: dict[str, Any] = {
            "engines": engines,
            "noise": noise.to_json(self.loop_ms, self.disturbed),
        }
        return {**made, "layers": self.layers} if self.layers else made


def measure(
    path: Path,
    engines: Sequence[str],
    threads: int,
    pace: Pace,
    cores: Cores,
    starting: Callable[[str], None] = lambda name: None,
    profile: bool = False,
) -> Measured:
    """Time a network on seeded random inputs; with `profile`, edgeconv's layers too."""
    inputs = random_inputs(onnx.load(path))
    ready, failed = prepare(path, inputs, engines, threads, starting)
    if not ready:
        return Measured({}, failed, [], [])
    clock, loop_ms = noise.clock(targets.host()), list[float]()
    starting(WAITING)
    with cores.for_measuring():
        timed = interleave(
            {name: r.bound.call for name, r in ready.items()},
            pace,
            settle=0.1 if threads > 1 else 0.0,
            starting=starting,
            between=lambda: loop_ms.append(clock()),
        )
        asked = ready[OWN].bound.profile if profile and OWN in ready else None
        layers = [] if asked is None else asked()
    timings = {
        name: timing_by_round(samples, ready[name].error, ready[name].prepare_s)
        for name, samples in timed.items()
    }
    return Measured(timings, failed, loop_ms, layers)


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> Arrays:
    """Seeded inputs by name, in the model's order: standard-normal, integers from 0 to 9."""
    rng = np.random.default_rng(seed)
    known = {t.name for t in model.graph.initializer}
    made: Arrays = {}
    for value in model.graph.input:
        if value.name not in known:
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            if kind == np.float32:
                made[value.name] = rng.standard_normal(shape, dtype=np.float32)
            elif kind.kind in "fiu":
                drawn = (
                    rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 10, shape)
                )
                made[value.name] = drawn.astype(kind)
            else:
                made[value.name] = rng.integers(0, 2, shape).astype(kind)
    return made
