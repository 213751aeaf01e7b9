"""The engines a quick comparison runs: edgeconv, ONNX Runtime, and TVM as it comes.

Each is one function `(model, threads) -> Engine`; `call` is what is timed, inputs and outputs
bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

import edgeconv

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Engine:
    """A network ready to run: what to time, and how to read the outputs in the model's order."""

    name: str
    call: Callable[[], Any]
    outputs: Callable[[], list[np.ndarray]]


def edgeconv_engine(model: onnx.ModelProto, inputs: Arrays, threads: int) -> Engine:
    """edgeconv, untuned."""
    call = edgeconv.compile(model, "host", threads=threads).bind(inputs)
    return Engine("edgeconv", call, lambda: list(call.outputs.values()))


def onnxruntime_engine(model: onnx.ModelProto, inputs: Arrays, threads: int) -> Engine:
    """ONNX Runtime's CPU provider through IO binding."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    kept = {n: ort.OrtValue.ortvalue_from_numpy(a) for n, a in inputs.items()}
    for name, value in kept.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    return Engine(
        "ONNX Runtime", lambda: session.run_with_iobinding(binding), binding.copy_outputs_to_cpu
    )


def stock_tvm_engine(model: onnx.ModelProto, inputs: Arrays, threads: int) -> Engine:
    """TVM as its tutorials use it: importer, default pipeline, `relax.build`, no tuning."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {name: list(array.shape) for name, array in inputs.items()}
    module = from_onnx(model, shape_dict=shapes, keep_params_in_input=False)
    target = edgeconv.targets.host().tvm_target(threads)
    executable = relax.build(module, target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    tensors = [tvm.runtime.tensor(a) for a in inputs.values()]
    results: list[Any] = [None]

    def call() -> None:
        results[0] = machine["main"](*tensors)

    def outputs() -> list[np.ndarray]:
        found = results[0] if isinstance(results[0], (list, tuple)) else [results[0]]
        return [np.asarray(t.numpy()) for t in found]

    return Engine("TVM, untuned", call, outputs)


ENGINES = (edgeconv_engine, onnxruntime_engine, stock_tvm_engine)
