"""TVM as its tutorials use it: importer, default pipeline, `relax.build`, no tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeconv import targets
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """The Relax virtual machine on tensors made once."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {name: list(array.shape) for name, array in inputs.items()}
    module = from_onnx(onnx.load(path), shape_dict=shapes, keep_params_in_input=False)
    executable = relax.build(module, targets.host().tvm_target(threads))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    tensors = [tvm.runtime.tensor(array) for array in inputs.values()]
    results: list[Any] = [None]

    def call() -> None:
        results[0] = machine["main"](*tensors)

    def outputs() -> list[np.ndarray]:
        found = results[0] if isinstance(results[0], (list, tuple)) else [results[0]]
        return [np.asarray(tensor.numpy()) for tensor in found]

    return Bound(call, outputs)


PEER = Peer(
    "tvm", "TVM, untuned", ("apache-tvm",), ("tvm",), prepare, "stock importer and pipeline"
)
