"""What a converter sees of one ONNX node, and the table of converters.

@converts("Relu")
def relu(node: NodeContext) -> Value:
    return node.emit("relu", [node.input(0)])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx

from edgeconv.errors import ModelError
from edgeconv.graph.ir import Graph, Value

Converter = Callable[["NodeContext"], "Value | Sequence[Value]"]
_TABLE: dict[str, Converter] = {}


class Refusal(Exception):
    """A converter's reason for not supporting a node; the importer collects them all."""


def converts(*op_types: str) -> Callable[[Converter], Converter]:
    """Register the decorated function for these ONNX operators (default domain)."""

    def register(fn: Converter) -> Converter:
        for name in op_types:
            _TABLE[name] = fn
        return fn

    return register


def converter(op_type: str) -> Converter | None:
    """The converter of an ONNX operator, or None."""
    return _TABLE.get(op_type)


class NodeContext:
    """One ONNX node with its operands already converted."""

    def __init__(
        self,
        graph: Graph,
        proto: onnx.NodeProto,
        label: str,
        opset: int,
        inputs: Sequence[Value | None],
    ) -> None:
        self.graph, self.proto, self.label, self.opset = graph, proto, label, opset
        self.op_type: str = proto.op_type
        self.inputs = list(inputs)
        self._attrs = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}

    def input(self, index: int) -> Value:
        """Operand `index`; ModelError if the model leaves it out."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"node '{self.label}' ({self.op_type}): input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Operand `index`, or None if absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def array(self, index: int, what: str) -> np.ndarray:
        """Operand `index` as an array known at compile time; Refusal if it is computed at run time."""
        value = self.input(index)
        if value.data is None:
            raise Refusal(f"{what} must be a constant, but is computed at run time")
        return value.data

    def optional_array(self, index: int, what: str) -> np.ndarray | None:
        """Like `array`, None if absent."""
        return None if self.optional(index) is None else self.array(index, what)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute in Python types (bytes decoded), or the default."""
        value = self._attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, reason: str) -> Refusal:
        """To be raised: this node cannot be compiled, for this reason."""
        return Refusal(reason)

    def constant(self, data: np.ndarray) -> Value:
        """A new constant."""
        return self.graph.constant(f"{self.label}.const", data)

    def emit(self, op: str, inputs: Iterable[Value], **attrs: Any) -> Value:
        """Append an operator with one output; its value."""
        return self.emit_many(op, inputs, **attrs)[0]

    def emit_many(self, op: str, inputs: Iterable[Value], **attrs: Any) -> list[Value]:
        """Append an operator; all its output values."""
        return self.graph.add(op, inputs, name=self.label, source=(self.label,), **attrs).outputs
