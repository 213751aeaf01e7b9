"""TVM as its tutorials use it: importer, default pipeline, `relax.build`; untuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeconv import targets
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer
from edgeconv.runtime.threads import configure


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """The Relax virtual machine on tensors made once."""
    from tvm import relax

    return bound(relax.build(imported(path, inputs), target(threads)), inputs, threads)


def imported(path: Path, inputs: Arrays) -> Any:
    """The Relax module of a file, its weights constants."""
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {name: list(array.shape) for name, array in inputs.items()}
    return from_onnx(onnx.load(path), shape_dict=shapes, keep_params_in_input=False)


def target(threads: int) -> Any:
    """This machine with so many cores."""
    return targets.host().tvm_target(threads)


def bound(executable: Any, inputs: Arrays, threads: int) -> Bound:
    """A compiled network that keeps its inputs; TVM's own choice is half of the cores it sees."""
    import tvm
    from tvm import relax

    configure(threads)
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
