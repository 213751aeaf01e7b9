"""ncnn, converted by pnnx; all half-precision options off."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported

_HALF_PRECISION = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_storage",
    "use_bf16_packed",
)


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """A network of one input; ncnn has no batch dimension, so the batch is 1."""
    import ncnn
    import onnx

    if len(inputs) != 1 or next(iter(inputs.values())).shape[0] != 1:
        raise Unsupported("one input and batch 1 only")
    (array,) = inputs.values()
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in _HALF_PRECISION:
        if hasattr(net.opt, option):
            setattr(net.opt, option, False)
    with tempfile.TemporaryDirectory() as folder:
        _convert(path, Path(folder))
        if net.load_param(f"{folder}/model.ncnn.param") or net.load_model(
            f"{folder}/model.ncnn.bin"
        ):
            raise Unsupported("ncnn cannot load what pnnx made")
    graph = onnx.load(path, load_external_data=False).graph
    shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output]
    source = ncnn.Mat(np.ascontiguousarray(array[0])).clone()
    results: list[Any] = [None] * len(shapes)

    def call() -> None:
        extractor = net.create_extractor()
        extractor.input("in0", source)
        for i in range(len(results)):
            _, results[i] = extractor.extract(f"out{i}")

    def outputs() -> list[np.ndarray]:
        return [np.array(m).reshape(s) for m, s in zip(results, shapes, strict=True)]

    return Bound(call, outputs)


def _convert(path: Path, folder: Path) -> None:
    """model.ncnn.param and model.ncnn.bin in `folder`."""
    import pnnx

    copied = folder / "model.onnx"  # pnnx writes beside its input
    shutil.copy(path, copied)
    done = subprocess.run(
        [pnnx.EXEC_PATH, copied.name, "fp16=0"], cwd=folder, capture_output=True, text=True
    )
    if not (folder / "model.ncnn.bin").exists():
        raise Unsupported(f"pnnx failed: {(done.stderr or done.stdout)[-300:]}")


PEER = Peer(
    "ncnn", "ncnn", ("ncnn", "pnnx"), ("ncnn", "pnnx"), prepare, "converted by pnnx, float32"
)
