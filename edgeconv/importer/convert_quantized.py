"""Quantised operators, computed as ONNX defines them: in integers, or in float32 and rounded."""

from __future__ import annotations

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.convert_elementwise import dtype_name
from edgeconv.importer.convert_matmul import product
from edgeconv.importer.convert_shape import normalised
from edgeconv.importer.windows import window

_LIMITS = {t: np.iinfo(t) for t in ("int8", "uint8", "int16", "uint16", "int32")}


def _along(node: NodeContext, value: Value, x: Value) -> Value:
    """A scale or zero point: one for all, or one for each place on `axis`."""
    if value.size == 1:
        return node.reshape(value, ())
    if len(value.shape) != 1 or node.attr("block_size", 0):
        raise node.refuse("blocked quantisation")
    axis = normalised(int(node.attr("axis", 1)), len(x.shape))
    return node.reshape(value, (*value.shape, *[1] * (len(x.shape) - axis - 1)))


def _quantised(node: NodeContext, x: Value, scale: Value, zero: Value | None, dtype: str) -> Value:
    """round(x/scale) + zero, inside the limits of the type."""
    limits = _LIMITS[dtype]
    out = node.emit("round", [node.emit("divide", [x, scale])])
    if zero is not None:
        out = node.emit("add", [out, node.cast(zero, out.dtype)])
    out = node.emit("clip", [out], low=float(limits.min), high=float(limits.max))
    return node.cast(out, dtype)


@converts("QuantizeLinear")
def quantize(node: NodeContext) -> Value:
    """To 8 or 16 bits."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    code = node.attr("output_dtype", 0)
    dtype = dtype_name(node, code) if code else "uint8" if zero is None else zero.dtype
    if dtype not in _LIMITS:
        raise node.refuse(f"quantisation to {dtype}")
    precise = node.cast(x, "float32")
    zeros = None if zero is None else _along(node, zero, x)
    return _quantised(node, precise, node.cast(_along(node, scale, x), "float32"), zeros, dtype)


@converts("DequantizeLinear")
def dequantize(node: NodeContext) -> Value:
    """(x - zero)·scale."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    code = node.attr("output_dtype", 0)
    dtype = dtype_name(node, code) if code else scale.dtype
    wide = node.cast(x, "int32")
    if zero is not None:
        shift = node.cast(_along(node, zero, x), "int32")
        wide = node.emit("subtract", [wide, shift])
    factor = _along(node, scale, x)
    out = node.emit("multiply", [node.cast(wide, factor.dtype), factor])
    return node.cast(out, dtype)


@converts("DynamicQuantizeLinear")
def dynamic_quantize(node: NodeContext) -> list[Value]:
    """To uint8 over the range of x and 0."""
    x = node.input(0)
    axes = tuple(range(len(x.shape)))
    zero = node.like(x, 0)
    low = node.emit("reduce_min", [x], axes=axes, keepdims=False)
    high = node.emit("reduce_max", [x], axes=axes, keepdims=False)
    low, high = node.emit("minimum", [low, zero]), node.emit("maximum", [high, zero])
    span = node.emit("subtract", [high, low])
    scale = node.emit("divide", [span, node.like(x, 255)])
    start = node.emit("divide", [node.emit("subtract", [zero, low]), scale])
    start = node.emit("round", [node.emit("clip", [start], low=0.0, high=255.0)])
    point = node.cast(start, "uint8")
    return [_quantised(node, x, scale, point, "uint8"), scale, point]


def _centred(node: NodeContext, x: Value, zero: Value | None, axis: int | None = None) -> Value:
    """x - zero in int32; a zero point for each place stands on `axis`."""
    wide = node.cast(x, "int32")
    if zero is None:
        return wide
    zero = node.cast(zero, "int32")
    if zero.size == 1:
        zero = node.reshape(zero, ())
    elif axis is not None and len(zero.shape) == 1:
        zero = node.reshape(zero, (*zero.shape, *[1] * (len(x.shape) - axis - 1)))
    return node.emit("subtract", [wide, zero])


@converts("MatMulInteger")
def matmul_integer(node: NodeContext) -> Value:
    """(a - zero)·(b - zero) in int32."""
    a, b = node.input(0), node.input(1)
    rows = max(len(a.shape) - 2, 0)
    left = _centred(node, a, node.optional(2), rows)
    right = _centred(node, b, node.optional(3), len(b.shape) - 1)
    return product(node, left, right, op="integer_matmul")


@converts("QLinearMatMul")
def qlinear_matmul(node: NodeContext) -> Value:
    """`MatMulInteger`, scaled and quantised."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (node.input(i) for i in range(8))
    left = _centred(node, a, a_zero, max(len(a.shape) - 2, 0))
    right = _centred(node, b, b_zero, len(b.shape) - 1)
    out = node.cast(product(node, left, right, op="integer_matmul"), "float32")
    factors = [node.cast(s, "float32") for s in (a_scale, b_scale, y_scale)]
    factors = [node.reshape(f, ()) if f.size == 1 else f for f in factors]
    out = node.emit("multiply", [out, node.emit("multiply", factors[:2])])
    zero = node.reshape(y_zero, ()) if y_zero.size == 1 else y_zero
    return _quantised(node, out, factors[2], zero, y_zero.dtype)


def _integer_conv(node: NodeContext, x: Value, weight: Value) -> Value:
    if len(x.shape) != 4:
        raise node.refuse(f"an integer convolution over {len(x.shape) - 2} axes")
    win = window(node, x.shape[2:], weight.shape[2:])
    return node.emit(
        "integer_conv2d",
        [x, weight],
        stride=win.stride,
        padding=win.padding,
        dilation=win.dilation,
        groups=int(node.attr("group", 1)),
    )


@converts("ConvInteger")
def conv_integer(node: NodeContext) -> Value:
    """Convolution of integers in int32; padding is the zero point, so 0 after centring."""
    x = _centred(node, node.input(0), node.optional(2))
    return _integer_conv(node, x, _centred(node, node.input(1), node.optional(3), 0))


@converts("QLinearConv")
def qlinear_conv(node: NodeContext) -> Value:
    """`ConvInteger` with bias, scaled and quantised."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (node.input(i) for i in range(8))
    out = _integer_conv(node, _centred(node, x, x_zero), _centred(node, w, w_zero, 0))
    bias = node.optional(8)
    if bias is not None:
        out = node.emit("add", [out, node.reshape(bias, (*bias.shape, 1, 1))])
    channels = w_scale if w_scale.size == 1 else node.reshape(w_scale, (w_scale.size, 1, 1))
    channels = node.reshape(channels, ()) if w_scale.size == 1 else channels
    factor = node.emit("multiply", [node.reshape(x_scale, ()), channels])
    out = node.emit("multiply", [node.cast(out, "float32"), factor])
    return _quantised(node, out, node.reshape(y_scale, ()), node.reshape(y_zero, ()), y_zero.dtype)
