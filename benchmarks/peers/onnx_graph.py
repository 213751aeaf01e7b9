"""An ONNX network as the converters to other formats want it: constants known, shapes static, batch
norm folded into the convolution before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from edgeconv.benchmarks.peers.base import Unsupported

Shape = tuple[int, ...]


@dataclass
class Node:
    """One operator; absent optional operands are empty names."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]


class OnnxGraph:
    """Nodes in order, constants as arrays, and the shape of every value."""

    def __init__(self, path: Path) -> None:
        model = shape_inference.infer_shapes(onnx.load(path))
        graph = model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes: list[Node] = []
        for proto in graph.node:
            node = _node(proto)
            if node.op == "Constant":
                self.constants[node.output] = numpy_helper.to_array(node.attributes["value"])
            else:
                self.nodes.append(node)
        self.shapes = {name: a.shape for name, a in self.constants.items()}
        for info in (*graph.value_info, *graph.input, *graph.output):
            self.shapes[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        self.inputs = [i.name for i in graph.input if i.name not in self.constants]
        self.outputs = [o.name for o in graph.output]
        self._drop_identities()
        self._fold_batch_norm()

    def readers(self, name: str) -> list[Node]:
        """Nodes that read a value."""
        return [n for n in self.nodes if name in n.inputs]

    def producer(self, name: str) -> Node | None:
        """The node that makes a value; None for inputs and constants."""
        return next((n for n in self.nodes if name in n.outputs), None)

    def only_reader(self, name: str) -> Node | None:
        """The single reader of a value that is no output of the network."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def constant(self, node: Node, position: int) -> np.ndarray | None:
        """Operand number `position`, None where it is absent.

        Raises:
            Unsupported: it is not a constant.
        """
        if position >= len(node.inputs) or not node.inputs[position]:
            return None
        name = node.inputs[position]
        if name not in self.constants:
            raise Unsupported(f"{node.op}: operand {position} is not a constant")
        return self.constants[name]

    def required(self, node: Node, position: int) -> np.ndarray:
        """Like `constant`, where ONNX demands the operand."""
        value = self.constant(node, position)
        if value is None:
            raise Unsupported(f"{node.op}: operand {position} is missing")
        return value

    def gemm(self, node: Node) -> tuple[np.ndarray, np.ndarray | None]:
        """Weight [outputs, inputs] and bias of a Gemm that is a dense layer."""
        a = node.attributes
        if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
            raise Unsupported("Gemm with transA, alpha or beta")
        weight, bias = self.required(node, 1), self.constant(node, 2)
        return (weight if a.get("transB", 0) else weight.T), bias

    def clip_range(self, node: Node) -> tuple[float | None, float | None]:
        """Bounds of a Clip, from attributes (opset 6) or operands (11 and later)."""
        bounds: list[float | None] = []
        for position, name in ((1, "min"), (2, "max")):
            value = self.constant(node, position)
            bound = node.attributes.get(name) if value is None else float(value)
            bounds.append(bound)
        return bounds[0], bounds[1]

    def _drop_identities(self) -> None:
        renamed: dict[str, str] = {}
        kept = []
        for node in self.nodes:
            node.inputs = [renamed.get(i, i) for i in node.inputs]
            if node.op in ("Identity", "Dropout") and node.output not in self.outputs:
                renamed[node.output] = node.inputs[0]
            else:
                kept.append(node)
        self.nodes = kept

    def _fold_batch_norm(self) -> None:
        for node in [n for n in self.nodes if n.op == "BatchNormalization"]:
            before = self.producer(node.inputs[0])
            if before is None or before.op != "Conv" or self.only_reader(before.output) is not node:
                continue
            scale, shift = self.batch_norm_scale_shift(node)
            weight = self.required(before, 1)
            bias = self.constant(before, 2)
            folded = weight * scale[:, None, None, None]
            moved = shift if bias is None else bias * scale + shift
            names = [f"{before.output}_folded_weight", f"{before.output}_folded_bias"]
            for name, array in zip(names, (folded, moved), strict=True):
                self.constants[name] = array.astype(np.float32)
                self.shapes[name] = array.shape
            before.inputs = [before.inputs[0], *names]
            before.outputs = [node.output]
            self.nodes.remove(node)

    def batch_norm_scale_shift(self, node: Node) -> tuple[np.ndarray, np.ndarray]:
        """A batch norm in inference as scale and shift of each channel, float64."""
        gamma, beta, mean, variance = (
            self.required(node, i).astype(np.float64) for i in range(1, 5)
        )
        scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return scale, beta - mean * scale


def _node(proto: onnx.NodeProto) -> Node:
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    decoded = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    return Node(proto.op_type, list(proto.input), list(proto.output), decoded)


def window(node: Node, kernel: Shape) -> tuple[Shape, Shape, Shape]:
    """(strides, pads, dilations) of a convolution or pooling.

    Raises:
        Unsupported: automatic padding.
    """
    a = node.attributes
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Unsupported(f"{node.op} with auto_pad {a['auto_pad']}")
    rank = len(kernel)
    return (
        tuple(a.get("strides", [1] * rank)),
        tuple(a.get("pads", [0] * 2 * rank)),
        tuple(a.get("dilations", [1] * rank)),
    )
