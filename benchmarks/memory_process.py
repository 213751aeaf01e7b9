"""The process that `peak_memory` starts: loads one network, runs it, prints its peak in MiB.

    python -m edgeconv.benchmarks.memory_process ENGINE FILE THREADS

Imports nothing but the engine's runtime and numpy.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

RUNS = 5


def run_edgeconv(path: str, _threads: int) -> None:
    """A compiled artifact; it knows its threads."""
    import edgeconv

    model = edgeconv.load(path)
    call = model.bind({s.name: np.ones(s.shape, s.dtype) for s in model.inputs})
    for _ in range(RUNS):
        call()


def run_onnxruntime(path: str, threads: int) -> None:
    """An ONNX model on the CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()}
    for _ in range(RUNS):
        session.run(None, inputs)


def peak_mib() -> float:
    """Peak resident memory of this process so far; Linux keeps it as VmHWM."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit("this kernel does not tell the peak of a process")
    return int(found[1]) / 1024


ENGINES = {"edgeconv": run_edgeconv, "onnxruntime": run_onnxruntime}

if __name__ == "__main__":
    ENGINES[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    print(peak_mib())
