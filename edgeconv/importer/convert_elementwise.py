"""Elementwise ONNX operators: arithmetic, comparison, logic, mathematical functions, casts."""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.folding import supported_dtype

_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "bitwise_not",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "IsNaN": "is_nan",
    "Log": "log",
    "Neg": "negative",
    "Not": "not",
    "Reciprocal": "reciprocal",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
}
_BINARY = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Where": "where",
}
_VARIADIC = {"Sum": "add", "Max": "maximum", "Min": "minimum"}


@converts(*_UNARY)
def unary(node: NodeContext) -> Value:
    """A function of one tensor."""
    return node.emit(_UNARY[node.op_type], [node.input(0)])


@converts(*_BINARY)
def binary(node: NodeContext) -> Value:
    """A function of two or three tensors that broadcast."""
    inputs = [node.input(i) for i in range(len(node.inputs))]
    if node.attr("broadcast", 0) and len(inputs) == 2:  # opset < 7
        inputs[1] = _aligned(node, *inputs)
    return node.emit(_BINARY[node.op_type], inputs)


def _aligned(node: NodeContext, a: Value, b: Value) -> Value:
    """b with ones behind it, so that it starts at `axis` of a."""
    axis = node.attr("axis")
    if axis is None:
        return b
    axis = axis % len(a.shape)
    return node.reshape(b, (*b.shape, *[1] * (len(a.shape) - axis - len(b.shape))))


@converts(*_VARIADIC, "Mean")
def variadic(node: NodeContext) -> Value:
    """A function of any number of tensors, two at a time."""
    inputs = [node.input(i) for i in range(len(node.inputs))]
    op = _VARIADIC.get(node.op_type, "add")
    total = reduce(lambda a, b: node.emit(op, [a, b]), inputs)
    if node.op_type == "Mean" and len(inputs) > 1:
        return node.emit("multiply", [total, node.like(total, 1 / len(inputs))])
    return node.emit("identity", [total]) if len(inputs) == 1 else total


@converts("Pow")
def power(node: NodeContext) -> Value:
    """Products and roots where the exponent is a small constant."""
    base, exponent = node.input(0), node.input(1)
    if node.attr("broadcast", 0):
        exponent = _aligned(node, base, exponent)
    if exponent.data is not None and exponent.size == 1 and "float" in base.dtype:
        number = float(exponent.data.reshape(-1)[0])
        if len(exponent.shape) <= len(base.shape):
            if number == 1.0:
                return base
            if number == 2.0:
                return node.emit("multiply", [base, base])
            if number == 3.0:
                square = node.emit("multiply", [base, base])
                return node.emit("multiply", [square, base])
            if number == 0.5:
                return node.emit("sqrt", [base])
            if number == -1.0:
                return node.emit("reciprocal", [base])
    return node.emit("power", [base, exponent])


@converts("Mod")
def modulo(node: NodeContext) -> Value:
    """The sign of the divisor, or of the dividend with fmod."""
    op = "remainder" if node.attr("fmod", 0) else "modulo"
    return node.emit(op, [node.input(0), node.input(1)])


@converts("BitShift")
def shift(node: NodeContext) -> Value:
    """Shifts of unsigned integers."""
    op = "shift_left" if node.attr("direction") == "LEFT" else "shift_right"
    return node.emit(op, [node.input(0), node.input(1)])


@converts("IsInf")
def is_inf(node: NodeContext) -> Value:
    """Infinities of the chosen signs."""
    negative, positive = node.attr("detect_negative", 1), node.attr("detect_positive", 1)
    return node.emit("is_inf", [node.input(0)], negative=bool(negative), positive=bool(positive))


def dtype_name(node: NodeContext, code: int) -> str:
    """The name of an ONNX element type; Refusal if edgeconv does not compute with it."""
    name = onnx.TensorProto.DataType.Name(code)
    try:
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)))
    except (KeyError, TypeError):
        dtype = ""
    if not supported_dtype(dtype):
        raise node.refuse(f"element type {name} is not supported")
    return dtype


@converts("Cast")
def cast(node: NodeContext) -> Value:
    """Another element type."""
    target = node.attr("to")
    if isinstance(target, str):  # opset < 6
        target = onnx.TensorProto.DataType.Value(target)
    return node.cast(node.input(0), dtype_name(node, target))


@converts("CastLike")
def cast_like(node: NodeContext) -> Value:
    """The element type of the second input."""
    return node.cast(node.input(0), node.input(1).dtype)


@converts("BitCast")
def bit_cast(node: NodeContext) -> Value:
    """The same bits as another element type of the same width."""
    x, dtype = node.input(0), dtype_name(node, node.attr("to"))
    if np.dtype(dtype).itemsize != np.dtype(x.dtype).itemsize:
        raise node.refuse(f"{x.dtype} and {dtype} differ in width")
    if "bool" in (x.dtype, dtype):
        return node.cast(x, dtype)
    return x if dtype == x.dtype else node.emit("bit_cast", [x], to=dtype)
