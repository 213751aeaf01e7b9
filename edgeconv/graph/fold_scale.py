"""Fold batch norm, already a multiply and an add by constants, into the convolution before it."""

from __future__ import annotations

import numpy as np

from edgeconv.graph.ir import Graph, Node, Value

CONVOLUTIONS = ("conv2d", "conv3d", "dense", "depthwise_branches")


def fold_scale(graph: Graph) -> int:
    """Fold every per-channel `multiply` and `add` behind a convolution or dense layer; their
    number.
    """
    folded = 0
    while _fold_one(graph):
        folded += 1
    return folded


def _fold_one(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        if node.op not in ("multiply", "add") or len(node.inputs) != 2:
            continue
        for x, c in (node.inputs, node.inputs[::-1]):
            conv = producers.get(x)
            if conv is None or conv.op not in CONVOLUTIONS or c.data is None:
                continue
            if graph.sole_reader(x, consumers) is None or not _is_bare(conv):
                continue
            channels = per_channel(c.data, x)
            if channels is not None:
                _fold(graph, conv, node, channels)
                return True
    return False


def _is_bare(conv: Node) -> bool:
    """A convolution with constant weights and nothing fused behind it but a constant bias."""
    if conv.attrs.get("has_residual") or conv.attrs.get("activation") is not None:
        return False
    if conv.op == "depthwise_branches":
        (first, *others) = conv.attrs["branches"].members
        if others or first.activation is not None:
            return False
    return all(v.is_constant for v in conv.inputs[1:]) and conv.output.dtype == "float32"


def per_channel(data: np.ndarray, x: Value) -> np.ndarray | None:
    """`data` as one number per channel of x, or None if it varies along other axes."""
    rank, channels = len(x.shape), x.shape[1] if len(x.shape) > 1 else 0
    if data.ndim > rank or not channels:
        return None
    shape = (1,) * (rank - data.ndim) + data.shape
    if any(d != 1 for axis, d in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(data.reshape(-1), (channels,)).astype(np.float64)


def _fold(graph: Graph, conv: Node, node: Node, channels: np.ndarray) -> None:
    weight = conv.inputs[1].data
    assert weight is not None
    has_bias = bool(conv.attrs.get("has_bias"))
    old_bias = conv.inputs[2].data if has_bias else np.zeros(weight.shape[0])
    assert old_bias is not None
    bias = old_bias.astype(np.float64)
    if node.op == "multiply":
        scale = channels.reshape(-1, *[1] * (weight.ndim - 1))
        scaled = (weight.astype(np.float64) * scale).astype(np.float32)
        conv.inputs[1] = graph.constant(conv.inputs[1].name, scaled)
        bias = bias * channels
    else:
        bias = bias + channels
    if has_bias or node.op == "add":
        value = graph.constant(f"{conv.name}.bias", bias.astype(np.float32))
        conv.inputs = [*conv.inputs[:2], value]
        conv.attrs["has_bias"] = True
    conv.source = (*conv.source, *node.source)
    graph.replace(node.output, conv.output)
    graph.nodes.remove(node)
