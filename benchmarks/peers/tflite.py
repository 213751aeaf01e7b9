"""The TFLite runtime (LiteRT) with the XNNPACK delegate, on a flatbuffer written from ONNX.

Inputs and outputs are NHWC; no change of layout is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """An interpreter with its inputs set.

    Raises:
        Unsupported: XNNPACK did not take the whole graph: TFLite's own slow kernels would run.
    """
    from ai_edge_litert.interpreter import Interpreter

    from edgeconv.benchmarks.peers.tflite_writer import convert

    interpreter = Interpreter(model_content=convert(path), num_threads=threads)
    interpreter.allocate_tensors()
    if not wholly_delegated(interpreter):
        raise Unsupported("XNNPACK did not take the whole graph")
    for detail, array in zip(interpreter.get_input_details(), inputs.values(), strict=True):
        stored = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(stored))

    def outputs() -> list[np.ndarray]:
        found = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
        return [a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for a in found]

    return Bound(interpreter.invoke, outputs)


def wholly_delegated(interpreter: Any) -> bool:
    """One delegate makes all outputs and reads nothing that another operator made.

    The list of operators, which is not public, still holds those a delegate has replaced.
    """
    operators = interpreter._get_ops_details()
    delegates = [o for o in operators if o["op_name"] == "DELEGATE"]
    if len(delegates) != 1:
        return False
    made = {int(i) for o in operators for i in o["outputs"]}
    read = {int(i) for i in delegates[0]["inputs"]}
    wanted = {int(d["index"]) for d in interpreter.get_output_details()}
    return not read & made and wanted <= {int(i) for i in delegates[0]["outputs"]}


PEER = Peer(
    "tflite",
    "TFLite XNNPACK",
    ("ai-edge-litert",),
    ("ai_edge_litert", "flatbuffers"),
    prepare,
    "LiteRT, XNNPACK delegate, NHWC input and output",
)
