"""MNN, its own converter called as a function.

The package's `mnnconvert` script installs packages and reports to a server; `_tools` does neither.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported

_CONVERT = (
    "import sys, _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--modelFile', sys.argv[1],"
    " '--MNNModel', sys.argv[2], '--bizCode', 'edgeconv'])"
)


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """A session on the CPU backend; `precision: high` keeps float32."""
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "model.mnn")
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT, str(path.resolve()), str(made)],
            capture_output=True,
            text=True,
        )
        if not made.exists():
            raise Unsupported(f"MNN's converter failed: {done.stderr[-300:]}")
        interpreter = MNN.Interpreter(str(made))
    session = interpreter.createSession(
        {"numThread": threads, "backend": "CPU", "precision": "high"}
    )
    names = _output_names(path)
    kind, plain = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
    hosts = [
        (
            interpreter.getSessionInput(session, name),
            MNN.Tensor(array.shape, kind, np.ascontiguousarray(array), plain),
        )
        for name, array in inputs.items()
    ]

    def call() -> None:
        for device, host in hosts:  # inputs do not survive a run
            device.copyFrom(host)
        interpreter.runSession(session)

    def outputs() -> list[np.ndarray]:
        found = []
        for name in names:
            tensor = interpreter.getSessionOutput(session, name)
            shape = tuple(tensor.getShape())
            host = MNN.Tensor(shape, kind, np.zeros(shape, np.float32), plain)
            tensor.copyToHostTensor(host)
            found.append(np.array(host.getNumpyData()).reshape(shape).copy())
        return found

    return Bound(call, outputs)


def _output_names(path: Path) -> list[str]:
    import onnx

    return [o.name for o in onnx.load(path, load_external_data=False).graph.output]


PEER = Peer(
    "mnn", "MNN", ("mnn",), ("MNN", "_tools"), prepare, "CPU backend, precision high; Winograd"
)
