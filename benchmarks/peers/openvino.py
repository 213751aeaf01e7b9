"""OpenVINO's CPU plugin."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """One infer request with its inputs set; float32 throughout, one stream."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request = compiled.create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, ov.Tensor(array.copy()))
    count = len(compiled.outputs)

    def outputs() -> list[np.ndarray]:
        return [np.array(request.get_output_tensor(i).data) for i in range(count)]

    return Bound(lambda: request.infer(None), outputs)


PEER = Peer(
    "openvino",
    "OpenVINO",
    ("openvino",),
    ("openvino",),
    prepare,
    "CPU plugin, float32, one stream, latency hint",
)
