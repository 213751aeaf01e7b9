"""Normalisation: small graphs of simple operators, so that fusion can join them."""

from __future__ import annotations

import math

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts, in_float32
from edgeconv.importer.convert_reduce import mean
from edgeconv.importer.convert_shape import normalised
from edgeconv.operators.registry import ShapeError


def _per_channel(node: NodeContext, value: Value, rank: int) -> Value:
    """[C] as [C, 1, 1 …] for a tensor of `rank` axes; others stay."""
    if len(value.shape) != 1:
        return value
    return node.reshape(value, (*value.shape, *[1] * (rank - 2)))


@converts("BatchNormalization")
def batch_normalization(node: NodeContext) -> list[Value]:
    """x·a + b with a = scale/√(var + ε), b = bias - mean·a; statistics of the batch in training."""
    x, scale, bias, average, variance = (node.input(i) for i in range(5))
    epsilon = float(node.attr("epsilon", 1e-5))
    rank = len(x.shape)
    if rank > 1 and any(v.shape != (x.shape[1],) for v in (scale, bias, average, variance)):
        if node.opset >= 9 or node.attr("spatial", 1):
            raise ShapeError(f"scale, bias, mean and variance are not all of size {x.shape[1]}")
    if node.attr("training_mode", 0):
        return _training(node, x, scale, bias, average, variance, epsilon)
    if node.opset < 7 and not node.attr("is_test", 0) and node.wants(1):
        raise node.refuse("training mode")
    return [_scale_shift(node, x, scale, bias, average, variance, epsilon)]


def _scale_shift(
    node: NodeContext,
    x: Value,
    scale: Value,
    bias: Value,
    average: Value,
    variance: Value,
    epsilon: float,
) -> Value:
    rank = len(x.shape)
    s, b, m, v = (
        None if p.data is None else p.data.astype(np.float64)
        for p in (scale, bias, average, variance)
    )
    if s is not None and b is not None and m is not None and v is not None:
        with np.errstate(all="ignore"):
            factor = s / np.sqrt(v + epsilon)
            offset = b - m * factor
        a = node.constant(factor.astype(x.dtype))
        shift = node.constant(offset.astype(x.dtype))
    else:
        deviation = node.emit("sqrt", [node.emit("add", [variance, node.like(variance, epsilon)])])
        a = node.cast(node.emit("divide", [scale, node.cast(deviation, scale.dtype)]), x.dtype)
        moved = node.emit("multiply", [node.cast(average, x.dtype), a])
        shift = node.emit("subtract", [node.cast(bias, x.dtype), moved])
    scaled = node.emit("multiply", [x, _per_channel(node, a, rank)])
    return node.emit("add", [scaled, _per_channel(node, shift, rank)])


def _training(
    node: NodeContext,
    x: Value,
    scale: Value,
    bias: Value,
    average: Value,
    variance: Value,
    epsilon: float,
) -> list[Value]:
    axes = tuple(i for i in range(len(x.shape)) if i != 1)
    channels = (x.shape[1],)
    momentum = float(node.attr("momentum", 0.9))
    batch_mean = mean(node, x, axes)
    centred = node.emit("subtract", [x, batch_mean])
    spread = mean(node, node.emit("multiply", [centred, centred]), axes)
    own = [node.reshape(v, channels) for v in (batch_mean, spread)]
    y = _scale_shift(node, x, scale, bias, own[0], own[1], epsilon)
    running = []
    for old, new in zip((average, variance), own, strict=True):
        kept = node.emit("multiply", [old, node.like(old, momentum)])
        fresh = node.cast(node.emit("multiply", [new, node.like(new, 1 - momentum)]), old.dtype)
        running.append(node.emit("add", [kept, fresh]))
    return [y, *running]


def _standardised(
    node: NodeContext, x: Value, axes: tuple[int, ...], epsilon: float
) -> tuple[Value, Value, Value]:
    """(x - mean)/√(var + ε) over `axes`, the mean, and 1/√(var + ε)."""
    average = mean(node, x, axes)
    centred = node.emit("subtract", [x, average])
    variance = mean(node, node.emit("multiply", [centred, centred]), axes)
    shifted = node.emit("add", [variance, node.like(variance, epsilon)])
    inverse = node.emit("reciprocal", [node.emit("sqrt", [shifted])])
    return node.emit("multiply", [centred, inverse]), average, inverse


@converts("InstanceNormalization")
@in_float32
def instance_normalization(node: NodeContext) -> Value:
    """Each channel of each image by itself."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    rank = len(x.shape)
    axes = tuple(range(2, rank))
    out, _, _ = _standardised(node, x, axes, float(node.attr("epsilon", 1e-5)))
    out = node.emit("multiply", [out, _per_channel(node, scale, rank)])
    return node.emit("add", [out, _per_channel(node, bias, rank)])


@converts("GroupNormalization")
def group_normalization(node: NodeContext) -> Value:
    """Groups of channels; scale and bias are one a group up to opset 20, one a channel after."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    groups = int(node.attr("num_groups"))
    n, c = x.shape[:2]
    if c % groups:
        raise ShapeError(f"{c} channels do not divide into {groups} groups")
    wide = x if x.dtype != "float16" else node.cast(x, "float32")
    grouped = node.reshape(wide, (n, groups, x.size // (n * groups)))
    out, _, _ = _standardised(node, grouped, (2,), float(node.attr("epsilon", 1e-5)))
    out = node.cast(out, x.dtype)
    by_group = scale.shape == (groups,) and (node.opset < 21 or groups == c)
    if not by_group:
        out = node.reshape(out, x.shape)
    scale, bias = (_per_channel(node, v, 3 if by_group else len(x.shape)) for v in (scale, bias))
    out = node.emit("add", [node.emit("multiply", [out, scale]), bias])
    return node.reshape(out, x.shape)


@converts("LayerNormalization")
def layer_normalization(node: NodeContext) -> list[Value]:
    """The axes from `axis` on; also the mean and the inverse deviation."""
    x, scale, bias = node.input(0), node.input(1), node.optional(2)
    axis = normalised(int(node.attr("axis", -1)), len(x.shape))
    axes = tuple(range(axis, len(x.shape)))
    wide = node.cast(x, "float32") if x.dtype == "float16" else x
    out, average, inverse = _standardised(node, wide, axes, float(node.attr("epsilon", 1e-5)))
    out = node.emit("multiply", [node.cast(out, x.dtype), scale])
    if bias is not None:
        out = node.emit("add", [out, bias])
    return [out, average, inverse]


@converts("RMSNormalization")
def rms_normalization(node: NodeContext) -> Value:
    """x/√(mean of x² + ε) · scale over the axes from `axis` on."""
    x, scale = node.input(0), node.input(1)
    axis = normalised(int(node.attr("axis", -1)), len(x.shape))
    axes = tuple(range(axis, len(x.shape)))
    wide = node.cast(x, "float32") if x.dtype == "float16" else x
    square = mean(node, node.emit("multiply", [wide, wide]), axes)
    epsilon = node.like(square, float(node.attr("epsilon", 1e-5)))
    inverse = node.emit("reciprocal", [node.emit("sqrt", [node.emit("add", [square, epsilon])])])
    out = node.cast(node.emit("multiply", [wide, inverse]), scale.dtype)
    return node.emit("multiply", [out, scale])


@converts("MeanVarianceNormalization")
def mean_variance_normalization(node: NodeContext) -> Value:
    """(x - mean)/(deviation + 1e-9)."""
    x = node.input(0)
    axes = tuple(normalised(int(a), len(x.shape)) for a in node.attr("axes", (0, 2, 3)))
    centred = node.emit("subtract", [x, mean(node, x, axes)])
    variance = mean(node, node.emit("multiply", [centred, centred]), axes)
    deviation = node.emit("sqrt", [variance])
    return node.emit("divide", [centred, node.emit("add", [deviation, node.like(deviation, 1e-9)])])


@converts("LpNormalization")
def lp_normalization(node: NodeContext) -> Value:
    """x by its norm along an axis; 0 where the norm is."""
    x, p = node.input(0), int(node.attr("p", 2))
    axes = (normalised(int(node.attr("axis", -1)), len(x.shape)),)
    powers = node.emit("abs", [x]) if p == 1 else node.emit("multiply", [x, x])
    norm = node.emit("reduce_sum", [powers], axes=axes, keepdims=True)
    norm = norm if p == 1 else node.emit("sqrt", [norm])
    zero = node.emit("equal", [norm, node.like(norm, 0)])
    return node.emit("divide", [x, node.emit("where", [zero, node.like(norm, math.inf), norm])])


@converts("LRN")
@in_float32
def lrn(node: NodeContext) -> Value:
    """Local response normalisation across channels."""
    return node.emit(
        "lrn",
        [node.input(0)],
        size=int(node.attr("size")),
        alpha=float(node.attr("alpha", 1e-4)),
        beta=round(float(node.attr("beta", 0.75)), 7),
        bias=float(node.attr("bias", 1.0)),
    )


@converts("Softmax", "LogSoftmax", "Hardmax")
@in_float32
def softmax(node: NodeContext) -> Value:
    """Along one axis from opset 13 on, over all axes from `axis` on before."""
    x = node.input(0)
    flat = node.opset < 13
    axis = normalised(int(node.attr("axis", 1 if flat else -1)), len(x.shape))
    shape = x.shape
    if flat and axis == len(shape) - 1:
        flat = False
    if flat:
        x = node.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
        axis = 1
    if node.op_type == "Hardmax":
        out = _hardmax(node, x, axis)
    else:
        op = "softmax" if node.op_type == "Softmax" else "log_softmax"
        out = node.emit(op, [x], axis=axis)
    return node.reshape(out, shape)


def _hardmax(node: NodeContext, x: Value, axis: int) -> Value:
    """1 at the first largest element, 0 elsewhere."""
    best = node.emit("argmax", [x], axis=axis, keepdims=True, last=False)
    column = [1] * len(x.shape)
    column[axis] = x.shape[axis]
    places = node.constant(np.arange(x.shape[axis], dtype=np.int64).reshape(column))
    return node.cast(node.emit("equal", [best, places]), x.dtype)
