"""Measures one case in a process of its own: `run` starts it, with a time limit.

An engine that crashes or hangs takes its process along. The process notes which engine it is
working on, so `run` knows which one to leave out when it tries again.

Job and result are JSON files in a folder: `job.json` {"models": {name: ONNX file}, "engines":
[names], "threads": n, "pace": {...}, "target": name, "profile": bool, "lock": file or null,
"trials": n, "skip": {model: {engine: reason}}}, `result.json` {model: what
`harness.Measured.to_json` gives}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from edgeconv.benchmarks import harness
from edgeconv.benchmarks.harness import ROUNDS
from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE, TUNED, edgeconv_tuned, tvm_tuned
from edgeconv.benchmarks.peers import edgeconv as own_peer
from edgeconv.benchmarks.rounds import Pace
from edgeconv.errors import EdgeconvError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
STARTUP_S = 300.0  # Python and TVM from a cold disk on a small board
COMMAND = (sys.executable, "-m", "edgeconv.benchmarks.worker")

_LOG = logging.getLogger(__name__)

Measurements = dict[str, dict[str, dict[str, Any]]]


def run(
    models: Mapping[str, Path | onnx.ModelProto],
    engines: Sequence[str],
    *,
    threads: int,
    seconds: float,
    limit: float,
    lock: Path | None = None,
) -> Measurements:
    """The engines' times on each model, a file or not yet one, without samples; see `measure`."""
    pace = Pace(ROUNDS, seconds)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: _file(model, Path(folder, f"{name}.onnx")) for name, model in models.items()}
        found = measure(paths, engines, threads=threads, pace=pace, limit=limit, lock=lock)
    engines_of: Measurements = {name: result["engines"] for name, result in found.items()}
    for results in engines_of.values():
        for engine in results.values():
            engine.pop("samples_ms", None)
    return engines_of


def _file(model: Path | onnx.ModelProto, path: Path) -> Path:
    """Where the model is; one in no file yet is saved to `path`."""
    if isinstance(model, Path):
        return model
    onnx.save(model, path)
    return path


def measure(
    models: Mapping[str, Path],
    engines: Sequence[str],
    *,
    threads: int,
    pace: Pace,
    limit: float,
    lock: Path | None = None,
    target: str = "host",
    profile: bool = False,
    trials: int = tvm_tuned.TRIALS,
) -> Measurements:
    """Measure all engines on each model in one process; again without an engine that broke it.

    Args:
        models: ONNX files by name.
        pace: how long each model is measured.
        limit: seconds an engine may take for one step; then the process is ended.
        target: what edgeconv compiles for; it must run here.
        profile: with the times of edgeconv's layers.
        trials: of each task, where TVM is tuned.

    Raises:
        EdgeconvError: the process ended outside any engine, or in the reference.
    """
    skip: dict[str, dict[str, str]] = {name: {} for name in models}
    job = {
        "models": {name: str(path.resolve()) for name, path in models.items()},
        "engines": list(engines),
        "threads": threads,
        "pace": asdict(pace),
        "lock": None if lock is None else str(lock.resolve()),
        "target": target,
        "profile": profile,
        "trials": trials,
        "skip": skip,
    }
    while True:
        with tempfile.TemporaryDirectory() as folder:
            reason, log = _attempt(Path(folder), job, limit)
            if reason is None:
                result: Measurements = json.loads(Path(folder, "result.json").read_text("utf-8"))
                return result
            stage = Path(folder, "stage")
            noted = stage.read_text("utf-8") if stage.exists() else ""
            model, _, engine = noted.partition("\n")[0].partition("/")
        if engine in ("", REFERENCE) or engine in skip[model]:
            _LOG.info("the measuring process printed:\n%s", log[-10_000:])
            last = (log.strip().splitlines() or ["it printed nothing"])[-1]
            last = last.removeprefix("edgeconv.errors.EdgeconvError: ")[:500]
            raise EdgeconvError(f"measuring {model or 'a network'} {reason}: {last}")
        skip[model][engine] = f"{reason}: {log[-300:].strip()}"


def _attempt(folder: Path, job: Mapping[str, Any], limit: float) -> tuple[str | None, str]:
    """(what went wrong or None, what the process printed)."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [*COMMAND, str(folder)]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status = _wait(process, folder / "stage", limit)
        finally:
            if process.poll() is None:  # also when the caller was interrupted
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    if status is None:
        return f"took longer than {limit:g} s for one step (--limit)", text
    return (None if status == 0 else f"ended with status {status}"), text


def _wait(process: subprocess.Popen[bytes], stage: Path, limit: float) -> int | None:
    """The exit status; None if the process spent `limit` seconds without noting a new stage."""
    seen, since = "", time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        noted = stage.read_text("utf-8") if stage.exists() else ""
        if noted != seen or noted == harness.WAITING:
            seen, since = noted, time.monotonic()
        if time.monotonic() - since > (limit if seen else max(limit, STARTUP_S)):
            return None


def _end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies without tidying up."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """The process: measure, and write result.json when all is done."""
    _end_with_parent()
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    pace = Pace(**job["pace"])
    if job["target"] != "host":
        PEERS[OWN] = own_peer.for_target(job["target"])
    lock = None if job["lock"] is None else Path(job["lock"])
    PEERS[TUNED] = edgeconv_tuned.configured(job["target"], lock)
    cores = harness.Cores(job["threads"], lock)
    stage = (folder / "stage").open("w", encoding="utf-8")

    def note(text: str) -> None:
        stage.seek(0)
        stage.truncate()
        stage.write(text)
        stage.flush()

    result: Measurements = {}
    for model, path in job["models"].items():

        def starting(engine: str, model: str = model) -> None:
            note(engine if engine == harness.WAITING else f"{model}/{engine}")

        def tuning(step: str, model: str = model) -> None:
            note(f"{model}/{tvm_tuned.PEER.name}\n{step}")

        place = tvm_tuned.Place(job["threads"], tuple(cores.measuring), lock)
        PEERS[tvm_tuned.PEER.name] = tvm_tuned.configured(job["trials"], place, tuning)
        skipped = job["skip"][model]
        engines = [e for e in job["engines"] if e not in skipped]
        measured = harness.measure(
            Path(path), engines, job["threads"], pace, cores, starting, job["profile"]
        )
        measured.failed.update(skipped)
        result[model] = measured.to_json()
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # some engines crash while they unload


if __name__ == "__main__":
    main()
