"""What a converter sees of one ONNX node, and the table of converters.

@converts("Relu")
def relu(node: NodeContext) -> Value:
    return node.emit("relu", [node.input(0)])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx

from edgeconv.errors import ModelError
from edgeconv.graph.ir import Graph, Value

Converter = Callable[["NodeContext"], "Value | Sequence[Value]"]
_TABLE: dict[str, Converter] = {}


class Refusal(Exception):
    """A converter's reason for not supporting a node; the importer collects them all.

    `needs` is a value that would have to be a constant, if that is the reason.
    """

    def __init__(self, reason: str, needs: Value | None = None) -> None:
        super().__init__(reason)
        self.needs = needs


def converts(*op_types: str) -> Callable[[Converter], Converter]:
    """Register the decorated function for these ONNX operators (default domain)."""

    def register(fn: Converter) -> Converter:
        for name in op_types:
            _TABLE[name] = fn
        return fn

    return register


def in_float32(convert: Converter) -> Converter:
    """A converter that computes float16 in float32 and rounds the results: sums stay exact."""

    @functools.wraps(convert)
    def wrapped(node: NodeContext) -> Value | Sequence[Value]:
        if not any(v is not None and v.dtype == "float16" for v in node.inputs):
            return convert(node)
        node.inputs = [
            v if v is None or v.dtype != "float16" else node.cast(v, "float32") for v in node.inputs
        ]
        results = convert(node)
        many = [results] if isinstance(results, Value) else results
        return [node.cast(v, "float16") if v.dtype == "float32" else v for v in many]

    return wrapped


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
        """Operand `index` as an array; Refusal if it is not known at compile time."""
        value = self.input(index)
        if value.data is None:
            raise Refusal(f"{what} must be a constant, but is computed at run time", value)
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

    def like(self, x: Value, number: float) -> Value:
        """A constant scalar of the element type of `x`."""
        return self.constant(np.array(number, dtype=x.dtype))

    def reshape(self, x: Value, shape: Iterable[int]) -> Value:
        """`x` under another shape of as many elements; `x` itself if it has that shape."""
        shape = tuple(int(d) for d in shape)
        return x if shape == x.shape else self.apply("reshape", [x], shape=shape)

    def cast(self, x: Value, dtype: str) -> Value:
        """`x` as another element type."""
        return x if x.dtype == dtype else self.apply("cast", [x], to=dtype)

    def wants(self, index: int) -> bool:
        """True if the model names output `index`."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def apply(self, op: str, inputs: Iterable[Value], **attrs: Any) -> Value:
        """`emit`, but computed now if it only moves or casts a constant."""
        operands = list(inputs)
        data = operands[0].data
        if data is not None and len(operands) == 1:
            if op == "reshape":
                return self.constant(data.reshape(attrs["shape"]))
            if op == "transpose":
                return self.constant(data.transpose(attrs["perm"]))
            if op == "cast":
                return self.constant(data.astype(attrs["to"]))
        return self.emit(op, operands, **attrs)

    def emit(self, op: str, inputs: Iterable[Value], **attrs: Any) -> Value:
        """Append an operator with one output; its value."""
        return self.emit_many(op, inputs, **attrs)[0]

    def emit_many(self, op: str, inputs: Iterable[Value], **attrs: Any) -> list[Value]:
        """Append an operator; all its output values."""
        return self.graph.add(op, inputs, name=self.label, source=(self.label,), **attrs).outputs
