"""The process that `cold` starts: one engine, one network, from nothing to the first result.

    python -m edgeconv.benchmarks.cold_process STEP ENGINE TINY FILE THREADS TARGET

STEP is "compile" (edgeconv only: FILE is ONNX, FILE.edgeconv is written) or "load". Both are done
on a network of next to nothing first, TINY, which imports the engine. `save_arrays` has put inputs
and the reference's results beside each ONNX file. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks.memory_process import peak_mib

CALLS = 10

Arrays = dict[str, np.ndarray]
Ready = tuple[Callable[[], Any], Callable[[], list[np.ndarray]]]
"""What runs, and its results."""


def save_arrays(path: Path, inputs: Mapping[str, np.ndarray], wanted: Iterable[np.ndarray]) -> None:
    """Keep a network's inputs and results beside its file."""
    np.savez(path.with_suffix(".inputs.npz"), *inputs.values())
    path.with_suffix(".names.json").write_text(json.dumps(list(inputs)), encoding="utf-8")
    np.savez(path.with_suffix(".outputs.npz"), *wanted)


def read_inputs(path: Path) -> Arrays:
    """By name."""
    names = json.loads(path.with_suffix(".names.json").read_text(encoding="utf-8"))
    return dict(zip(names, _arrays(path.with_suffix(".inputs.npz")), strict=True))


def read_outputs(path: Path) -> list[np.ndarray]:
    """In the model's order."""
    return _arrays(path.with_suffix(".outputs.npz"))


def _arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as kept:
        return [kept[f"arr_{i}"] for i in range(len(kept.files))]


def pin(threads: int) -> None:
    """Stay on as many cores as threads, the last ones, as the other measurements do."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def _seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = action()
    return time.perf_counter() - begin, result


def compile_step(tiny: Path, path: Path, threads: int, target: str) -> dict[str, float]:
    """Compile time with default knobs, its memory, and the artifact's size."""
    import edgeconv

    def both(source: Path) -> Path:
        artifact = edgeconv.compile_artifact(source, target, threads=threads, records=False)
        return artifact.save(source.with_suffix(".edgeconv"))

    start_s, _ = _seconds(lambda: both(tiny))
    bare = peak_mib()
    compile_s, saved = _seconds(lambda: both(path))
    return {
        "start_s": start_s,
        "compile_s": compile_s,
        "compile_mib": peak_mib() - bare,
        "file_mib": saved.stat().st_size / 2**20,
    }


def load_step(engine: str, tiny: Path, path: Path, threads: int) -> dict[str, float]:
    """Time to load (and convert, for engines with a format of their own), first and later runs."""
    ready = _edgeconv if engine == "edgeconv" else _peer(engine)
    start_s, (call, _) = _seconds(lambda: ready(tiny, read_inputs(tiny), threads))
    call()
    inputs = read_inputs(path)
    bare = peak_mib()
    load_s, (call, outputs) = _seconds(lambda: ready(path, inputs, threads))
    first_s, _ = _seconds(call)
    later = [_seconds(call)[0] for _ in range(CALLS)]
    peak = peak_mib() - bare
    from edgeconv.benchmarks.harness import relative_error  # importing it takes memory

    return {
        "start_s": start_s,
        "load_s": load_s,
        "first_ms": first_s * 1e3,
        "steady_ms": statistics.median(later) * 1e3,
        "peak_mib": peak,
        "error": relative_error(outputs(), read_outputs(path)),
    }


def _edgeconv(path: Path, inputs: Arrays, _: int) -> Ready:
    """A compiled artifact; it knows its threads."""
    import edgeconv

    call = edgeconv.load(path.with_suffix(".edgeconv")).bind(inputs)
    return call, lambda: list(call.outputs.values())


def _peer(engine: str) -> Callable[[Path, Arrays, int], Ready]:
    from edgeconv.benchmarks.peers import PEERS

    def ready(path: Path, inputs: Arrays, threads: int) -> Ready:
        bound = PEERS[engine].prepare(path, inputs, threads)
        return bound.call, bound.outputs

    return ready


if __name__ == "__main__":
    step, name, small, file, count, compiled_for = sys.argv[1:]
    files = Path(small), Path(file)
    if step == "compile":
        found = compile_step(*files, int(count), compiled_for)
    else:
        pin(int(count))
        found = load_step(name, *files, int(count))
    print("\n" + json.dumps(found), flush=True)
