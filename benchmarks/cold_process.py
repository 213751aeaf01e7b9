"""The process that `cold` starts: one engine, one network, from nothing to the first result.

    python -m edgeconv.benchmarks.cold_process STEP ENGINE TINY FILE THREADS

STEP is "compile" (edgeconv only: FILE is ONNX, FILE.edgeconv is written) or "load". Both are done
on a network of next to nothing first, TINY, which imports the engine. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeconv.benchmarks.memory_process import peak_mib

CALLS = 10


def pin(threads: int) -> None:
    """Stay on as many cores as threads, the last ones, as the other measurements do."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def _seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = action()
    return time.perf_counter() - begin, result


def compile_step(tiny: Path, path: Path, threads: int) -> dict[str, float]:
    """Compile time, its memory, and the artifact's size."""
    import edgeconv

    def both(source: Path) -> Path:
        artifact = edgeconv.compile_artifact(source, "host", threads=threads)
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
    start_s, call = _seconds(lambda: ready(tiny, threads))
    call()
    bare = peak_mib()
    load_s, call = _seconds(lambda: ready(path, threads))
    first_s, _ = _seconds(call)
    later = [_seconds(call)[0] for _ in range(CALLS)]
    return {
        "start_s": start_s,
        "load_s": load_s,
        "first_ms": first_s * 1e3,
        "steady_ms": statistics.median(later) * 1e3,
        "peak_mib": peak_mib() - bare,
    }


def _edgeconv(path: Path, threads: int) -> Callable[[], Any]:
    """A compiled artifact; it knows its threads."""
    import edgeconv

    model = edgeconv.load(path.with_suffix(".edgeconv"))
    return model.bind(model.random_inputs())


def _peer(engine: str) -> Callable[[Path, int], Callable[[], Any]]:
    from edgeconv.benchmarks.peers import PEERS

    def ready(path: Path, threads: int) -> Callable[[], Any]:
        import onnx

        from edgeconv.benchmarks.harness import random_inputs

        return PEERS[engine].prepare(path, random_inputs(onnx.load(path)), threads).call

    return ready


if __name__ == "__main__":
    step, name, small, file, count = sys.argv[1:]
    files = Path(small), Path(file)
    if step == "compile":
        found = compile_step(*files, int(count))
    else:
        pin(int(count))
        found = load_step(name, *files, int(count))
    print("\n" + json.dumps(found), flush=True)
