"""Channels that need not be computed: those of dead filters, and those that nobody reads.

Training with batch norm and ReLU leaves filters that make the same number everywhere (Mehta et al.,
"On Implicit Filter Level Sparsity in Convolutional Neural Networks", CVPR 2019): after folding, all
their weights are zero, and act(bias) is left. Such a channel is dropped from what makes it and from
what reads it. A constant that is not zero goes into the bias of every reader; a reader that pads
with zeros sees another number at the border, so there the channel stays. A channel that meets only
zero weights in all its readers is dropped too, whatever it holds.

What is left out is multiplied by zero weights; the results differ only where an input is infinite
or not a number.
"""

from __future__ import annotations

import numpy as np

from edgeconv.graph.channel_components import Component, components, dense_readers
from edgeconv.graph.constant_channels import Constants, constant_channels, pads
from edgeconv.graph.ir import Graph, Node, Value


def remove_dead_channels(graph: Graph) -> int:
    """Remove all channels that need not be computed; their number."""
    removed = 0
    while count := _remove_once(graph):
        removed += count
    return removed


def _remove_once(graph: Graph) -> int:
    """Remove what can be told apart at once; other channels may have lost their last reader."""
    removed = 0
    known = constant_channels(graph)
    for component in components(graph):
        if not component.readers:
            continue
        unneeded = _unneeded(component, known)
        if unneeded.all():
            unneeded[0] = False  # a tensor has at least one channel
        if not unneeded.any():
            continue
        for node, weight in dense_readers(component):
            _fold(graph, node, weight, np.where(unneeded, known.get(node.inputs[0], 0), 0))
        component.take(graph, np.flatnonzero(~unneeded))
        removed += int(unneeded.sum())
    return removed


def _unneeded(component: Component, known: Constants) -> np.ndarray:
    """Which channels no reader needs."""
    unneeded = np.ones(component.channels, bool)
    for node, weight in dense_readers(component):
        unread = ~weight.any(axis=(0, 2, 3))
        value = known.get(node.inputs[0], np.full(component.channels, np.nan))
        foldable = np.isfinite(value) if not pads(node) else value == 0
        unneeded &= unread | foldable
    return unneeded


def _fold(graph: Graph, node: Node, weight: np.ndarray, constants: np.ndarray) -> None:
    """Add what channels of these constants contribute to the bias of a convolution."""
    share = weight.astype(np.float64).sum(axis=(2, 3))
    used = share.any(axis=0)
    constants = np.where(used, np.nan_to_num(constants), 0)
    if not constants.any():
        return
    bias = share @ constants
    if node.attrs.get("has_bias"):
        assert node.inputs[2].data is not None
        bias = bias + node.inputs[2].data
    folded: Value = graph.constant(f"{node.name}.bias", bias.astype(np.float32))
    node.inputs[2 : 2 + bool(node.attrs.get("has_bias"))] = [folded]
    node.attrs["has_bias"] = True
