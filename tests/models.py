"""The nine light models that the onnx package carries, also with weights that make them tell."""

from __future__ import annotations

import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT_MODELS = tuple(sorted(p.stem for p in FOLDER.glob("light_*.onnx")))


def light_model(name: str, he_normal: bool) -> onnx.ModelProto:
    """A light model, as shipped or with seeded He-normal weights.

    As shipped, all weights of a tensor are equal (ConstantOfShape), and outputs nearly uniform.
    """
    model = onnx.load(FOLDER / f"{name}.onnx")
    return with_he_normal_weights(model, zlib.crc32(name.encode())) if he_normal else model


def with_he_normal_weights(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with each ConstantOfShape over constants replaced by a random initialiser.

    Kernels: standard deviation √(2/fan-in) before a Relu, else √(1/fan-in), and √(0.1/fan-in) in
    the last layer, so that softmax does not saturate. Scales and variances lie around one, the
    rest around zero; branches of residual sums are damped: activations do not grow with depth.
    """
    graph, rng = model.graph, np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for index, value in enumerate(node.input):
            readers[value].append((node, index))
    kept, gone = [], set()
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(d) for d in shapes[node.input[0]])
        role = _role(node.output[0], readers)
        weight = _draw(rng, role, shape)
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        gone.add(node.input[0])
    del graph.node[:]
    graph.node.extend(kept)
    for field in (graph.initializer, graph.input):
        rest = [item for item in field if item.name not in gone]
        del field[:]
        field.extend(rest)
    model.ir_version = max(model.ir_version, 4)  # initialisers need not be inputs
    return model


def _role(value: str, readers: dict[str, list[tuple[onnx.NodeProto, int]]]) -> str:
    """What a weight is for, seen from the node that reads it."""
    node, index = readers[value][0]
    if node.op_type in ("Unsqueeze", "Reshape"):
        return _role(node.output[0], readers)
    if node.op_type in ("Conv", "Gemm"):
        if index != 1:
            return "shift"
        if _reaches_relu(node.output[0], readers):
            return "kernel before relu"
        return "last kernel" if node.op_type == "Gemm" else "kernel"
    if node.op_type == "BatchNormalization":
        summed = any(n.op_type in ("Sum", "Add") for n, _ in readers[node.output[0]])
        damped = summed and len(readers[node.output[0]]) == 1
        return ("", "damped" if damped else "scale", "shift", "shift", "variance")[index]
    return "scale" if node.op_type == "Mul" else "shift"


def _reaches_relu(value: str, readers: dict[str, list[tuple[onnx.NodeProto, int]]]) -> bool:
    """True if a Relu is next, but for normalisation."""
    following = [n for n, _ in readers[value]]
    if any(n.op_type in ("BatchNormalization", "Mul", "Add") for n in following):
        return _reaches_relu(following[0].output[0], readers)
    return any(n.op_type == "Relu" for n in following)


def _draw(rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = rng.standard_normal(shape, np.float32)
    gain = {"kernel before relu": 2.0, "kernel": 1.0, "last kernel": 0.1}.get(role)
    if gain is not None:
        normal *= np.float32(np.sqrt(gain / np.prod(shape[1:])))
        return normal
    if role == "variance":
        return np.float32(1) + np.float32(0.1) * np.abs(normal)
    centre = np.float32({"scale": 1.0, "damped": 0.3}.get(role, 0.0))
    return centre + np.float32(0.1) * (centre or np.float32(1)) * normal
