"""Channels that hold one known number in every pixel, whatever the network's input.

A filter whose weights are all zero makes act(bias); what follows passes such constants on, as far
as padding allows. Computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeconv.graph.channel_components import BINARY, is_dense, is_grouped, keeps_channels
from edgeconv.graph.channel_gathers import channel_order
from edgeconv.graph.ir import Graph, Node, Value

Constants = dict[Value, np.ndarray]  # [C], NaN where a channel is not constant

_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def constant_channels(graph: Graph) -> Constants:
    """What is known of all values that have channels."""
    known: Constants = {}
    for node in graph.nodes:
        if is_dense(node) or is_grouped(node):
            known[node.output] = _convolution(node, known)
        elif keeps_channels(node):
            known[node.output] = _channelwise(node, known)
        elif node.op == "concat" and node.attrs["axis"] == 1:
            known[node.output] = np.concatenate([_of(v, known) for v in node.inputs])
        elif node.op == "slice" and (order := channel_order(node)) is not None:
            known[node.output] = _of(node.inputs[0], known)[order]
    return known


def _of(value: Value, known: Constants) -> np.ndarray:
    return known.get(value, np.full(value.shape[1], np.nan))


def pads(node: Node) -> bool:
    """Whether a convolution or pool sees zeros around its input, or between its pixels."""
    return max(node.attrs["padding"]) > 0 or node.attrs.get("input_stride", (1, 1)) != (1, 1)


def _convolution(node: Node, known: Constants) -> np.ndarray:
    weight, a = node.inputs[1].data, node.attrs
    assert weight is not None
    data = _of(node.inputs[0], known)
    if pads(node):  # a border sees zeros instead
        data = np.where(data == 0, 0, np.nan)
    groups = a["groups"]
    used = np.asarray(weight.any(axis=(2, 3)))  # [K, C/groups]
    data = np.broadcast_to(data, (len(weight), len(data))) if groups == 1 else _grouped(data, node)
    columns = ~np.isnan(data).all(axis=0)  # where something is known
    total = weight[:, columns].sum(axis=(2, 3), dtype=np.float64)
    products = (total * np.nan_to_num(data[:, columns])).sum(axis=1)
    result = np.where((used & np.isnan(data)).any(axis=1), np.nan, products)
    if a.get("has_bias"):
        bias = node.inputs[2].data
        assert bias is not None
        result = result + bias
    if a.get("has_residual"):
        result = result + _of(node.inputs[-1], known)
    activation = a.get("activation")
    return result if activation is None else activate(activation[0], dict(activation[1]), result)


def _grouped(data: np.ndarray, node: Node) -> np.ndarray:
    """[K, C/groups]: what every filter of a grouped convolution reads, from [C]."""
    groups = node.attrs["groups"]
    return np.repeat(data.reshape(groups, -1), node.output.shape[1] // groups, axis=0)


def _channelwise(node: Node, known: Constants) -> np.ndarray:
    """The constants behind a node that keeps channels apart."""
    if node.op in BINARY and len(node.inputs) == 2:
        a, b = (
            _of(v, known) if v.data is None else v.data.astype(np.float64).reshape(-1)
            for v in node.inputs
        )
        return np.broadcast_to(_BINARY[node.op](a, b), (node.output.shape[1],))
    x = _of(node.inputs[0], known)
    if node.op in ("reduce_mean", "reshape", "max_pool2d"):
        return x
    if node.op == "avg_pool2d":
        whole = node.attrs["divisor"] == "valid" or not pads(node)
        return x if whole else np.where(x == 0, 0, np.nan)
    return activate(node.op, node.attrs, x)


def activate(name: str, attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """A unary operator on constants; NaN for those not listed here."""
    if name == "relu":
        return np.maximum(x, 0)
    if name == "clip":
        low, high = attrs.get("low"), attrs.get("high")
        x = x if low is None else np.maximum(x, low)
        return x if high is None else np.minimum(x, high)
    if name == "leaky_relu":
        return np.where(x < 0, x * attrs["alpha"], x)
    with np.errstate(over="ignore"):
        if name in ("sigmoid", "silu"):
            sigmoid = 1 / (1 + np.exp(-x))
            return sigmoid if name == "sigmoid" else x * sigmoid
    if name in ("hard_sigmoid", "hard_swish"):
        alpha, beta = attrs.get("alpha", 1 / 6), attrs.get("beta", 0.5)
        cut = np.clip(x * alpha + beta, 0, 1)
        return cut if name == "hard_sigmoid" else x * cut
    if name == "tanh":
        return np.tanh(x)
    return np.full(x.shape, np.nan)
