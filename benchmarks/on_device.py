"""Cases on a board over RPC: edgeconv alone, by the board's own clock.

The network is compiled here and its results are compared with ONNX Runtime's here; only runs
without copies are timed. The other engines are measured by the same commands on the board itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

import edgeconv
from edgeconv.artifact import read
from edgeconv.benchmarks import harness
from edgeconv.benchmarks.cold_process import CALLS, read_inputs, read_outputs
from edgeconv.benchmarks.harness import MAX_ERROR, Measured, timing_by_round
from edgeconv.benchmarks.peers import OWN, Arrays
from edgeconv.benchmarks.peers.edgeconv import PROFILE_RUNS
from edgeconv.benchmarks.rounds import WARM_UP, Pace, Samples
from edgeconv.device import BoardInfo, RemoteModel, Session, session
from edgeconv.device.detect import best_target
from edgeconv.device.model import peak_timer
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.targets import Device, load, probe


@dataclass(frozen=True)
class Board:
    """A board to measure on.

    Attributes:
        address: see `edgeconv.device`.
        target: what edgeconv compiles for.
        timeout: seconds it may take for each answer.
        facts: what results tell of it.
    """

    address: str
    target: Device
    timeout: float
    facts: dict[str, Any] = field(default_factory=dict)


def look(address: str, target: str, threads: list[int], timeout: float) -> Board:
    """Ask a board what it is; the target "host" stands for what fits it best.

    Raises:
        EdgeconvError: it can't be reached, is emulated, has too few cores, or can't run code for
            the target.
    """
    with session(address, timeout) as board:
        info: BoardInfo = board.info
        chosen = best_target(info) if target == "host" else load(target)
    if info.emulated:
        raise DeviceError(f"{info.address} is emulated: times there say nothing about a board")
    if (reason := info.mismatch(chosen)) is not None:
        raise DeviceError(f"{info.address} can't run code for '{chosen.name}': {reason}")
    wrong = [t for t in threads if not 1 <= t <= info.cores]
    if wrong:
        raise EdgeconvError(
            f"{wrong[0]} threads: {info.address} may use {info.cores} cores; give 1 to {info.cores}"
        )
    return Board(address, chosen, timeout, _facts(info, chosen))


def measure(
    path: Path, board: Board, threads: int, pace: Pace, profile: bool = False
) -> dict[str, Any]:
    """One network, as `worker.measure` gives it, and "board": what it ran on.

    Raises:
        DeviceError: a fault of the board.
    """
    inputs = harness.random_inputs(onnx.load(path))
    _, wanted = harness.reference_results(path, inputs)
    with session(board.address, board.timeout) as opened:
        facts = {"board": {**board.facts}}
        begin = time.perf_counter()
        try:
            artifact = edgeconv.compile_artifact(path, board.target, threads=threads, records=False)
        except EdgeconvError as problem:
            failed = {OWN: f"{type(problem).__name__}: {str(problem)[:300]}"}
            return {**Measured({}, failed, [], []).to_json(), **facts}
        model = RemoteModel(artifact, opened)
        error = harness.relative_error([*model.run(inputs).values()], wanted)
        prepare_s = time.perf_counter() - begin
        if not error <= MAX_ERROR:
            failed = {OWN: f"wrong result: relative error {error:.1e}"}
            return {**Measured({}, failed, [], []).to_json(), **facts}
        clock = _clock(opened, board.target)
        samples, loop_ms = _rounds(model, inputs, pace, clock)
        rows = model.profile(inputs, repeat=PROFILE_RUNS).rows if profile else ()
        flops_per_ms = probe.flops(board.target) / min(loop_ms)
    facts["board"]["peak_gflops_one_core"] = round(flops_per_ms / 1e6, 1)
    timings = {OWN: timing_by_round(samples, error, prepare_s)}
    return {**Measured(timings, {}, loop_ms, [asdict(r) for r in rows]).to_json(), **facts}


def cold_start(tiny: Path, path: Path, board: Board) -> dict[str, float]:
    """What `cold_process.load_step` tells, in a session of its own: seconds to send and load by the
    clock here, first and later runs by the board's. Artifacts lie beside the ONNX files.

    Raises:
        DeviceError: a fault of the board.
    """
    small, artifact = (read(p.with_suffix(".edgeconv")) for p in (tiny, path))
    inputs = read_inputs(path)
    with session(board.address, board.timeout) as opened:
        RemoteModel(small, opened).run(read_inputs(tiny))
        begin = time.perf_counter()
        model = RemoteModel(artifact, opened)
        load_s = time.perf_counter() - begin
        first_ms = model.first_run_ms(inputs)
        later = model.benchmark(inputs, warmup=0, repeat=CALLS, min_repeat_ms=0.0)
        error = harness.relative_error([*model.run(inputs).values()], read_outputs(path))
    return {"load_s": load_s, "first_ms": first_ms, "steady_ms": later.median, "error": error}


def _facts(info: BoardInfo, target: Device) -> dict[str, Any]:
    return {
        "address": info.address,
        "model": info.model,
        "cpu": info.cpu_text,
        "cores": info.cores,
        "target": target.name,
        "versions": info.versions,
    }


def _clock(board: Session, target: Device) -> Callable[[], float]:
    """Times a fixed loop of multiply-adds on the board, ms."""
    timer = peak_timer(board, target)
    return lambda: statistics.median(timer()) * 1e3


def _rounds(
    model: RemoteModel, inputs: Arrays, pace: Pace, clock: Callable[[], float]
) -> tuple[Samples, list[float]]:
    """(calls by round, the loop before each)."""
    once = model.benchmark(inputs, warmup=WARM_UP, repeat=3, min_repeat_ms=0.0).median
    plan = pace.plan({OWN: once * 1e-3})
    samples, loop_ms = Samples(), list[float]()
    for number in range(plan.rounds):
        loop_ms.append(clock())
        if number % plan.every[OWN] == 0:
            count = plan.counts[OWN]
            taken = model.benchmark(inputs, warmup=WARM_UP, repeat=count, min_repeat_ms=0.0)
            samples.undisturbed.append(list(taken.samples))
        else:
            samples.undisturbed.append([])
        samples.disturbed.append([])
    return samples, loop_ms
