"""What a user waits for before the first result: compiling, loading, the first run; and memory.

Every number is of a process of its own, in which the engine has run a network of next to nothing
before, so that importing it does not count; the median of several processes. All but compiling is
pinned to as many cores as threads. Peak memory is the growth of the process's peak. edgeconv loads
its artifact; other engines convert and load the ONNX file. Linux only: the peak is the kernel's
VmHWM.
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
from edgeconv.benchmarks.harness import locked
from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE
from edgeconv.benchmarks.records import Case
from edgeconv.benchmarks.summary import engine_order
from edgeconv.benchmarks.tabulate import NOTHING, Table, milliseconds
from edgeconv.errors import EdgeconvError

PROGRAMME = "cold"
PROCESS = "edgeconv.benchmarks.cold_process"
REPEATS = 3


def key(name: str, threads: int) -> str:
    """The case's key."""
    return f"{Path(name).stem}, {threads_text(threads)}"


def measure(
    name: str,
    engines: Sequence[str],
    threads: int,
    limit: float,
    repeats: int = REPEATS,
    lock: Path | None = None,
) -> Case:
    """One network on all engines; `lock` is held while a network loads and runs.

    Raises:
        EdgeconvError: the network can't be read.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny, path = Path(folder, "tiny.onnx"), Path(folder, "network.onnx")
        onnx.save(peak_memory.bare_network(), tiny)
        onnx.save(networks.with_fixed_shapes(networks.load(name), {}), path)
        for engine in engines:
            arguments = (engine, tiny, path, threads, limit)
            parts = []
            try:
                if engine == OWN:
                    parts.append(_median([_process("compile", *arguments) for _ in range(repeats)]))
                with locked(lock):
                    parts.append(_median([_process("load", *arguments) for _ in range(repeats)]))
            except EdgeconvError as error:
                found[engine] = {"failed": str(error)}
                continue
            found[engine] = {k: v for part in parts for k, v in part.items()}
        if "load_s" in found.get(REFERENCE, {}):
            found[REFERENCE]["file_mib"] = round(path.stat().st_size / 2**20, 3)
    return {"network": Path(name).stem, "threads": threads, "cold": found}


def _process(
    step: str, engine: str, tiny: Path, path: Path, threads: int, limit: float
) -> dict[str, float]:
    command = [sys.executable, "-m", PROCESS, step, engine, str(tiny), str(path), str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise EdgeconvError(f"{step} took longer than {limit:g} s") from error
    lines = done.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):  # some engines crash while they unload
        raise EdgeconvError(f"{step} ended with status {done.returncode}: {done.stderr[-300:]}")
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


def summary(content: Mapping[str, Any]) -> str:
    """Markdown."""
    return table(content).markdown()
