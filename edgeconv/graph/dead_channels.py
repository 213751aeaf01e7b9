"""Channels that need not be computed: those of dead filters, and those that nobody reads.

Training with batch norm and ReLU leaves filters that make the same number everywhere (Mehta et al.,
"On Implicit Filter Level Sparsity in Convolutional Neural Networks", CVPR 2019): after folding, all
their weights are zero, and act(bias) is left. Such a channel is dropped from what makes it and from
what reads it. A constant that is not zero goes into the bias of every reader; a reader that pads
with zeros sees another number at the border, so there the channel stays. A channel that meets only
zero weights in all its readers is dropped too, whatever it holds. Concatenations and slices lose
what their operands lose, a grouped convolution only whole groups.

Operands of a concatenation that are whole vectors stay so, since those are joined in place (see
concat_in_place): as many dead channels stay as fill the last vector, at no cost.

What is left out is multiplied by zero weights; the results differ only where an input is infinite
or not a number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.graph.channel_classes import ChannelClasses, is_join, is_part
from edgeconv.graph.constant_channels import Constants, constant_channels, pads
from edgeconv.graph.ir import Graph, Node, Value


def remove_dead_channels(graph: Graph, lanes: int = 1) -> int:
    """Remove all channels that need not be computed, but for those that fill up vectors of `lanes`;
    their number.
    """
    graph.prune()
    removed = 0
    while count := _remove_once(graph, lanes):
        removed += count
    return removed


def _remove_once(graph: Graph, lanes: int) -> int:
    """Remove what can be told apart at once; other channels may have lost their last reader."""
    known, classes = constant_channels(graph), ChannelClasses(graph)
    kept = _needed(classes, known)
    _keep_shape(kept, classes, lanes)
    removed = int(classes.counts()[~kept].sum())
    if removed:
        for node, numbers, weight in classes.readers():
            _fold(graph, node, weight, np.where(kept[numbers], 0, known.get(node.inputs[0], 0)))
        classes.keep(kept)
    return removed


def _needed(classes: ChannelClasses, known: Constants) -> np.ndarray:
    """Which classes some reader needs, or cannot be changed."""
    needed = classes.fixed.copy()
    for node, numbers, weight in classes.readers():
        unread = ~weight.any(axis=(0, 2, 3))
        value = known.get(node.inputs[0], np.full(len(numbers), np.nan))
        foldable = np.isfinite(value) if not pads(node) else value == 0
        needed[numbers[~(unread | foldable)]] = True
    return needed


def _keep_shape(kept: np.ndarray, classes: ChannelClasses, lanes: int) -> None:
    """Keep dead channels where a convolution would be left without inputs, or whole vectors of
    channels, which are joined and split without copies, would be no more.
    """
    whole = list(_whole_vectors(classes, lanes))
    changed = True
    while changed:
        changed = False
        for _, numbers, _ in classes.readers():
            if not kept[numbers].any():
                kept[numbers[0]] = changed = True
        for numbers in whole:
            while kept[numbers].sum() % lanes:
                kept[numbers[~kept[numbers]][0]] = changed = True


def _whole_vectors(classes: ChannelClasses, lanes: int) -> Iterator[np.ndarray]:
    """Classes of channels that should stay whole vectors together."""
    for node in classes.graph.nodes:
        shape = node.outputs[0].shape
        if not (is_join(node) or is_part(node)) or len(shape) != 4 or shape[0] != 1:
            continue
        if is_join(node):
            ranges = [classes.of[v] for v in node.inputs[:-1]]
        else:
            numbers, begin = classes.of[node.inputs[0]], node.attrs["begin"][1]
            end = begin + shape[1]
            ranges = [numbers[:begin], *([numbers[begin:end]] if end < len(numbers) else [])]
        if all(len(numbers) % lanes == 0 for numbers in ranges):
            yield from ranges


def _fold(graph: Graph, node: Node, weight: np.ndarray, constants: np.ndarray) -> None:
    """Add what channels of these constants contribute to the bias of a convolution."""
    constants = np.where(weight.any(axis=(0, 2, 3)), np.nan_to_num(constants), 0)
    if not constants.any():
        return
    bias = weight.sum(axis=(2, 3), dtype=np.float64) @ constants
    if node.attrs.get("has_bias"):
        assert node.inputs[2].data is not None
        bias = bias + node.inputs[2].data
    folded: Value = graph.constant(f"{node.name}.bias", bias.astype(np.float32))
    node.inputs[2 : 2 + bool(node.attrs.get("has_bias"))] = [folded]
    node.attrs["has_bias"] = True
