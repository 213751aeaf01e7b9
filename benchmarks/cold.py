"""What a user waits for before the first result: compiling, loading, the first run; and memory.

Every number is of a process of its own, in which the engine has run a network of next to nothing
before, so that importing it does not count; the median of several processes. All but compiling is
pinned to as many cores as threads. Peak memory is the growth of the process's peak. edgeconv loads
its artifact; other engines convert and load the ONNX file. A result that is not ONNX Runtime's is a
failure. Linux only: the peak is the kernel's VmHWM.

On a board over RPC only edgeconv is measured, in a session of its own each time: loading is then by
the clock here and includes the transfer of code and weights; the runs are by the board's clock, the
first one layer by layer. The board's memory is not measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from edgeconv.benchmarks import networks, peak_memory
from edgeconv.benchmarks.cases import threads_text
from edgeconv.benchmarks.cold_process import save_arrays
from edgeconv.benchmarks.harness import locked, max_error, random_inputs, reference_results
from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE
from edgeconv.benchmarks.records import Case
from edgeconv.benchmarks.running import Method
from edgeconv.benchmarks.summary import engine_order
from edgeconv.benchmarks.tabulate import NOTHING, Table, milliseconds
from edgeconv.errors import DeviceError, EdgeconvError

PROGRAMME = "cold"
PROCESS = "edgeconv.benchmarks.cold_process"
REPEATS = 3


def key(name: str, threads: int) -> str:
    """The case's key."""
    return f"{networks.title(name)}, {threads_text(threads)}"


def measure(name: str, threads: int, method: Method, repeats: int = REPEATS) -> Case:
    """One network on all engines; the method's lock is held while a network loads and runs.

    Raises:
        EdgeconvError: the network can't be read, or the board failed.
    """
    model = networks.with_fixed_shapes(networks.load(name), {})
    facts: Case = {"network": networks.title(name), "threads": threads}
    if method.board is not None:
        facts["board"] = method.board.facts
    with tempfile.TemporaryDirectory() as folder:
        tiny, path = Path(folder, "tiny.onnx"), Path(folder, "network.onnx")
        _save(peak_memory.bare_network(), tiny)
        _save(model, path)
        found = {e: _engine(e, tiny, path, threads, method, repeats) for e in method.engines}
        if "load_s" in found.get(REFERENCE, {}):
            found[REFERENCE]["file_mib"] = round(path.stat().st_size / 2**20, 3)
    return {**facts, "cold": found}


def _save(model: onnx.ModelProto, path: Path) -> None:
    """The file, its inputs, and the reference's results."""
    onnx.save(model, path)
    inputs = random_inputs(model)
    save_arrays(path, inputs, reference_results(path, inputs)[1])


def _engine(
    engine: str, tiny: Path, path: Path, threads: int, method: Method, repeats: int
) -> dict[str, Any]:
    """Medians of one engine, or {"failed": why}."""

    def process(step: str) -> dict[str, float]:
        command = [step, engine, str(tiny), str(path), str(threads), method.target]
        return _process(command, method.limit)

    parts = []
    try:
        if engine == OWN:
            parts.append(_median([process("compile") for _ in range(repeats)]))
        with locked(method.lock):
            if method.board is None:
                parts.append(_median([process("load") for _ in range(repeats)]))
            else:
                from edgeconv.benchmarks import on_device

                runs = [on_device.cold_start(tiny, path, method.board) for _ in range(repeats)]
                parts.append(_median(runs))
    except DeviceError:
        raise
    except EdgeconvError as error:
        return {"failed": str(error)}
    found = {k: v for part in parts for k, v in part.items()}
    if not found["error"] <= max_error(engine):
        return {"failed": f"wrong result: relative error {found['error']:.1e}"}
    return found


def _process(arguments: Sequence[str], limit: float) -> dict[str, float]:
    step, command = arguments[0], [sys.executable, "-m", PROCESS, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise EdgeconvError(f"{step} took longer than {limit:g} s (--limit)") from error
    lines = done.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):  # some engines crash while they unload
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise EdgeconvError(f"{step} ended with status {done.returncode}: {reason}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def _median(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {k: float(f"{statistics.median(r[k] for r in runs):.4g}") for k in runs[0]}


def table(content: Mapping[str, Any]) -> Table:
    """One row for each network and engine."""
    titles = ["network, engine", "threads", "compile s", "load s", "first run ms", "later runs ms"]
    titles += ["file MiB", "peak MiB"]
    rows = []
    for case in content["cases"].values():
        for name in engine_order(case["cold"]):
            engine = case["cold"][name]
            if "failed" in engine:
                continue
            cells = [
                _number(engine.get(k)) for k in ("compile_s", "load_s", "first_ms", "steady_ms")
            ]
            memory = [_number(engine.get(k), 1) for k in ("file_mib", "peak_mib")]
            title = f"{case['network']}, {PEERS[name].title}"
            rows.append([title, str(case["threads"]), *cells, *memory])
    return Table(titles, rows)


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return NOTHING
    return milliseconds(value) if digits is None else f"{value:.{digits}f}"


def failures(content: Mapping[str, Any]) -> list[str]:
    """A sentence for each engine that gave no time."""
    return [
        f"{PEERS[name].title} has no time for {key}: {engine['failed']}"
        for key, case in content["cases"].items()
        for name, engine in case["cold"].items()
        if "failed" in engine
    ]


def summary(content: Mapping[str, Any]) -> str:
    """Markdown: the table, and what failed."""
    broken = "".join(f"\n- {line}" for line in failures(content))
    return table(content).markdown() + (f"{broken}\n" if broken else "")
