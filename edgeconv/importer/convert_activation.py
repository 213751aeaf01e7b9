"""Activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts

_PLAIN = {
    "HardSwish": "hard_swish",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
_WITH_ATTRIBUTES: dict[str, tuple[str, dict[str, float]]] = {
    "Celu": ("celu", {"alpha": 1.0}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


@converts(*_PLAIN)
def plain(node: NodeContext) -> Value:
    """An activation without parameters."""
    return node.emit(_PLAIN[node.op_type], [node.input(0)])


@converts(*_WITH_ATTRIBUTES)
def with_attributes(node: NodeContext) -> Value:
    """An activation with numbers as parameters."""
    op, defaults = _WITH_ATTRIBUTES[node.op_type]
    attrs = {name: float(node.attr(name, value)) for name, value in defaults.items()}
    return node.emit(op, [node.input(0)], **attrs)


@converts("Selu")
def selu(node: NodeContext) -> Value:
    """Scaled exponential linear unit; opset 1 had less digits in its defaults."""
    alpha, gamma = (1.6732, 1.0507) if node.opset < 6 else _SELU
    return node.emit(
        "selu",
        [node.input(0)],
        alpha=float(node.attr("alpha", alpha)),
        gamma=float(node.attr("gamma", gamma)),
    )


@converts("Gelu")
def gelu(node: NodeContext) -> Value:
    """Exact, or by tanh."""
    op = "gelu_tanh" if node.attr("approximate", "none") == "tanh" else "gelu"
    return node.emit(op, [node.input(0)])


@converts("Swish")
def swish(node: NodeContext) -> Value:
    """x · sigmoid(alpha·x)."""
    alpha = float(node.attr("alpha", 1.0))
    if alpha == 1.0:
        return node.emit("silu", [node.input(0)])
    return node.emit("swish", [node.input(0)], alpha=alpha)


@converts("Shrink")
def shrink(node: NodeContext) -> Value:
    """Towards zero by bias, to zero inside the threshold."""
    return node.emit(
        "shrink",
        [node.input(0)],
        bias=float(node.attr("bias", 0.0)),
        threshold=float(node.attr("lambd", 0.5)),
    )


@converts("Clip")
def clip(node: NodeContext) -> Value:
    """Bounds are attributes up to opset 10, optional inputs from 11 on."""
    x = node.input(0)
    attrs: dict[str, Any] = {"low": None, "high": None}
    if node.opset < 11:
        for name, key in (("min", "low"), ("max", "high")):
            value = node.attr(name)
            attrs[key] = None if value is None else _bound(x.dtype, value, name == "min")
    else:
        for index, key, op in ((1, "low", "maximum"), (2, "high", "minimum")):
            bound = node.optional(index)
            if bound is not None and bound.data is None:
                # a bound of run time: both as operators, low first
                return _clip_by_tensors(node, x)
            if bound is not None and bound.data is not None:
                attrs[key] = _bound(x.dtype, bound.data.reshape(-1)[0], op == "maximum")
    if attrs["low"] is None and attrs["high"] is None:
        return x
    if attrs["low"] == 0 and attrs["high"] is None:
        return node.emit("relu", [x])
    return node.emit("clip", [x], **attrs)


def _clip_by_tensors(node: NodeContext, x: Value) -> Value:
    for index, op in ((1, "maximum"), (2, "minimum")):
        bound = node.optional(index)
        if bound is not None:
            x = node.emit(op, [x, node.reshape(bound, ())])
    return x


def _bound(dtype: str, value: Any, low: bool) -> float | int | None:
    """A bound in Python's type; None where it bounds nothing."""
    if np.dtype(dtype).kind == "f":
        limit = float(np.finfo(dtype).max)
        bound = float(value)
        return None if (bound <= -limit if low else bound >= limit) else bound
    return int(value)


@converts("PRelu")
def prelu(node: NodeContext) -> Value:
    """One slope, one a channel (also as a plain vector), or any that broadcasts to x."""
    x, slope = node.input(0), node.input(1)
    if slope.size == 1 and slope.data is not None and "float" in x.dtype:
        return node.emit("leaky_relu", [x], alpha=float(slope.data.reshape(-1)[0]))
    channels_only = len(slope.shape) == 1 and len(x.shape) > 1
    if channels_only and slope.shape[0] == x.shape[1] and node.opset < 7:
        slope = node.reshape(slope, (*slope.shape, *[1] * (len(x.shape) - 2)))
    return node.emit("prelu", [x, slope])
