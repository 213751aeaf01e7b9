"""Which channels of all values stand and fall together.

Channel i of a sum is made of channel i of its terms, a concatenation's of one operand's, a slice's
of its operand's; a grouped convolution needs all channels of a group, and makes all of it. Such
channels form a class: none of them can be left out without the others. Dense convolutions make
classes (a row of weights a channel) and read them (a column). Classes that anything else sees, such
as the network's inputs and outputs, are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.graph.channel_components import (
    is_dense,
    is_grouped,
    keeps_channels,
    take_channels,
    take_constant,
    take_filters,
)
from edgeconv.graph.channel_gathers import channel_run
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.linked import Linked


class ChannelClasses:
    """The classes of a graph's channels, numbered."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._first: dict[Value, np.ndarray] = {}  # [C], a number of each channel's class
        self._count = 0  # of numbers
        self._linked = Linked[int]()
        self._fixed: set[int] = set()
        for value in graph.inputs:
            self._fix(value)
        for node in graph.nodes:
            self._enter(node)
        for value in graph.outputs:
            self._fix(value)
        roots = np.array([self._linked.root(i) for i in range(self._count)], np.int64)
        self.of = {value: roots[numbers] for value, numbers in self._first.items()}
        self.fixed = np.zeros(len(roots), bool)
        self.fixed[roots[list(self._fixed)]] = True

    def _enter(self, node: Node) -> None:
        """Let the outputs of a node have classes."""
        data = [v for v in node.inputs if not v.is_constant]
        if is_dense(node):
            self._join(self._numbers(node.output), data[1:])
        elif is_grouped(node):
            self._group(node)
            self._join(self._first[node.output], data[1:])
        elif keeps_channels(node):
            self._first[node.output] = self._numbers(data[0])
            self._join(self._first[node.output], data[1:])
        elif is_join(node):
            for value in node.inputs:
                if value.is_constant:
                    self._fix(value)
            parts = [self._numbers(v) for v in node.inputs]
            self._first[node.output] = np.concatenate(parts)
        elif is_part(node):
            begin, size = node.attrs["begin"][1], node.attrs["size"][1]
            self._first[node.output] = self._numbers(data[0])[begin : begin + size]
        else:
            for value in (*data, *node.outputs):
                self._fix(value)

    def _group(self, node: Node) -> None:
        """Join the inputs of each group with its outputs."""
        groups = node.attrs["groups"]
        numbers = self._numbers(node.inputs[0]).reshape(groups, -1)
        for group in numbers.tolist():
            self._linked.join(group)
        per_group = node.output.shape[1] // groups
        self._first[node.output] = np.repeat(numbers[:, 0], per_group)

    def _join(self, numbers: np.ndarray, values: list[Value]) -> None:
        """Let channels of all `values` be in the classes of these numbers."""
        for value in values:
            for pair in zip(numbers.tolist(), self._numbers(value).tolist(), strict=True):
                self._linked.join(pair)

    def _numbers(self, value: Value) -> np.ndarray:
        """A number for each channel, new ones if the value was not seen before."""
        if value not in self._first:
            channels = value.shape[1] if len(value.shape) > 1 else 0
            self._first[value] = self._count + np.arange(channels)
            self._count += channels
        return self._first[value]

    def _fix(self, value: Value) -> None:
        self._fixed.update(self._numbers(value).tolist())

    def keep(self, kept: np.ndarray) -> None:
        """Leave out all channels whose classes are not in `kept`, a table of truth values."""
        lost = {v: kept[c] for v, c in self.of.items() if not v.is_constant and not kept[c].all()}
        for node in list(self.graph.nodes):
            _take(self.graph, node, lost)
        for value, channels in lost.items():
            value.shape = (value.shape[0], int(channels.sum()), *value.shape[2:])
        for node in list(self.graph.nodes):
            if len(node.inputs) == 1 and is_join(node) and node.output in lost:
                self.graph.replace(node.output, node.inputs[0])
        self.graph.prune()

    def counts(self) -> np.ndarray:
        """How many channels of one convolution are in each class, at most."""
        counts = np.zeros(len(self.fixed), np.int64)
        for node in self.graph.nodes:
            if is_dense(node) or is_grouped(node):
                numbers, found = np.unique(self.of[node.output], return_counts=True)
                counts[numbers] = np.maximum(counts[numbers], found)
        return counts

    def readers(self) -> Iterator[tuple[Node, np.ndarray, np.ndarray]]:
        """Dense convolutions, the classes of their inputs, and their weights [K, C, R, S]."""
        for node in self.graph.nodes:
            if is_dense(node):
                weight = node.inputs[1].data
                assert weight is not None
                yield node, self.of[node.inputs[0]], weight


def is_join(node: Node) -> bool:
    """A concatenation of channels."""
    return bool(node.op == "concat" and node.attrs["axis"] == 1)


def is_part(node: Node) -> bool:
    """A slice of neighbouring channels."""
    return channel_run(node) is not None and not node.inputs[0].is_constant


def _take(graph: Graph, node: Node, lost: dict[Value, np.ndarray]) -> None:
    """Adapt a node's constants and attributes to what is left of its channels."""
    out = lost.get(node.outputs[0])
    if node.op == "conv2d":
        data = lost.get(node.inputs[0])
        if data is not None and is_dense(node):
            take_constant(graph, node, 1, np.flatnonzero(data), axis=1)
        elif data is not None:
            groups = node.attrs["groups"]
            node.attrs["groups"] = int(data.reshape(groups, -1)[:, 0].sum())
        if out is not None:
            take_filters(graph, node, np.flatnonzero(out))
    elif is_join(node) and out is not None:
        node.inputs = [v for v in node.inputs if v not in lost or lost[v].any()]
    elif is_part(node) and node.inputs[0] in lost:
        begin, size = node.attrs["begin"], node.attrs["size"]
        data = lost[node.inputs[0]]
        before, inside = data[: begin[1]], data[begin[1] : begin[1] + size[1]]
        node.attrs["begin"] = (begin[0], int(before.sum()), *begin[2:])
        node.attrs["size"] = (size[0], int(inside.sum()), *size[2:])
    elif out is not None:
        take_channels(graph, node, len(out), np.flatnonzero(out))
