"""Channels joined, shuffled and split between convolutions are read where their makers wrote them.

ShuffleNetV2 (Ma et al., ECCV 2018) joins the outputs of two branches, shuffles the channels and
splits them again: three copies of everything in each unit. Here the outputs of all convolutions of
a stage are joined in the order in which they are made, as DenseNet's are, which costs nothing (see
concat_in_place), and every reader takes the channels it needs from what is joined so far: a dense
convolution has weights of zero for all others, which `cluster_channels` leaves out; a depthwise
convolution keeps the channels in the order of the join, and its readers take theirs from it.

A maker gets as many filters of zeros as its last vector of channels lacks: the parts of a join
have to be whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.graph.channel_components import is_depthwise, is_plain
from edgeconv.graph.channel_gathers import GATHERS, channel_order, channel_run, is_whole, widen
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.linked import Linked

COPY_CYCLES = 2.0  # to move an element between channel blocks; measured
MACS_PER_CYCLE = 1.5  # and lane, of a depthwise convolution


def read_channels_at_source(graph: Graph, lanes: int) -> int:
    """Rewrite every set of joins, shuffles and splits whose readers all can take channels where
    they were made, for vectors of `lanes`; the number of copies that are gone.
    """
    producers = graph.producers()
    nodes = [n for n in graph.nodes if n.op in GATHERS]
    linked = Linked[Value]()
    for node in nodes:
        made = [v for v in node.inputs if v in producers and producers[v].op in GATHERS]
        linked.join([node.output, *made])
    count = 0
    for values in linked.sets().values():
        together = [n for n in nodes if n.output in values]
        found = _Gathers.of(graph, together, lanes)
        if found is not None:
            found.rewrite()
            count += len(together)
    graph.prune()
    return count


@dataclass
class _Gathers:
    """Nodes that only move channels, all that they read, and all that reads them.

    Attributes:
        nodes: the nodes, in order.
        parts: tensors the channels come from, in the order in which they are made.
        channels: for each value read outside, [n, 2]: part and channel in it of every channel.
        dense: for each value read outside, the convolutions that read it.
        depthwise: the same, for depthwise ones.
    """

    graph: Graph
    lanes: int
    nodes: list[Node]
    parts: list[Value]
    channels: dict[Value, np.ndarray]
    dense: dict[Value, list[Node]]
    depthwise: dict[Value, list[Node]]

    @classmethod
    def of(cls, graph: Graph, nodes: list[Node], lanes: int) -> _Gathers | None:
        """None if some channel has to be moved, or nothing would be gained."""
        if all(_is_free(node, lanes) for node in nodes):
            return None
        inner = {node.output for node in nodes}
        operands = [v for n in nodes for v in _data(n) if v not in inner]
        made = {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}
        parts = sorted(dict.fromkeys(operands), key=lambda v: made.get(v, -1))
        channels = _origins(nodes, parts)
        if channels is None or len(parts) < 2 or any(map(graph.outputs.__contains__, inner)):
            return None
        consumers = graph.consumers()
        outside = {
            v: [r for r in consumers.get(v, []) if r.op not in GATHERS or r.output not in inner]
            for v in inner
        }
        read = {v: readers for v, readers in outside.items() if readers}
        dense = {v: [r for r in readers if _is_dense(r, v)] for v, readers in read.items()}
        depthwise = {v: [r for r in readers if _is_depthwise(r, v)] for v, readers in read.items()}
        if any(len(dense[v]) + len(depthwise[v]) < len(readers) for v, readers in read.items()):
            return None
        found = cls(graph, lanes, nodes, parts, {v: channels[v] for v in read}, dense, depthwise)
        return found if found.can_join() and found.pays(consumers) else None

    def can_join(self) -> bool:
        """Whether all parts but the last are whole vectors, or can be made so."""
        producers, consumers = self.graph.producers(), self.graph.consumers()
        for part in self.parts[:-1]:
            if part.shape[1] % self.lanes == 0:
                continue
            maker = producers.get(part)
            if maker is None or not is_plain(maker):
                return False
            if maker.attrs["groups"] > 1 or maker.attrs.get("has_residual"):
                return False
            if part in self.graph.outputs or any(r not in self.nodes for r in consumers[part]):
                return False
        return True

    def pays(self, consumers: dict[Value, list[Node]]) -> bool:
        """Whether the depthwise convolutions may run on all channels of their join: their readers
        take what they want, and that costs less than the copies.
        """
        for value, readers in self.depthwise.items():
            origins = self.channels[value]
            if readers and len(np.unique(origins, axis=0)) < len(origins):
                return False
            for reader in readers:
                out = reader.output
                if out in self.graph.outputs or not consumers.get(out):
                    return False
                if not all(_is_dense(r, out) for r in consumers[out]):
                    return False
                joined = self.parts[: self.last(value) + 1]
                more = sum(map(self.width, joined)) - value.shape[1]
                taps = int(np.prod(reader.inputs[1].shape[2:]))
                area = int(np.prod(out.shape[2:]))
                if more * area * taps / (MACS_PER_CYCLE * self.lanes) > COPY_CYCLES * value.size:
                    return False
        return True

    def width(self, part: Value) -> int:
        """Channels of a part in a join."""
        whole = -(-part.shape[1] // self.lanes) * self.lanes
        return part.shape[1] if part is self.parts[-1] else whole

    def last(self, value: Value) -> int:
        """The last part that a value reads."""
        return int(self.channels[value][:, 0].max())

    def rewrite(self) -> None:
        """Join the parts, and let every reader read a join."""
        starts = np.cumsum([0, *map(self.width, self.parts)])
        for part in self.parts[:-1]:
            self._fill(part)
        joins = self._join()
        named: set[str] = set()
        for value, origins in sorted(self.channels.items(), key=lambda item: self.last(item[0])):
            join = joins[self.last(value)]
            order = starts[origins[:, 0]] + origins[:, 1]
            source = [n for n in self._source(value) if n not in named]
            named.update(source)
            for reader in (*self.dense[value], *self.depthwise[value]):
                reader.source = (*reader.source, *source)  # it is named after the first
            for reader in self.dense[value]:
                widen(self.graph, reader, join, order)
            for reader in self.depthwise[value]:
                self._keep_order(reader, join, order)

    def _fill(self, part: Value) -> None:
        """Add filters of zeros to the convolution that makes `part`."""
        more = self.width(part) - part.shape[1]
        if not more:
            return
        maker = self.graph.producers()[part]
        for position, operand in enumerate(maker.inputs[1:], 1):
            assert operand.data is not None
            zeros = np.zeros((more, *operand.shape[1:]), operand.dtype)
            data = np.concatenate([operand.data, zeros])
            maker.inputs[position] = self.graph.constant(operand.name, data)
        part.shape = (part.shape[0], part.shape[1] + more, *part.shape[2:])

    def _join(self) -> dict[int, Value]:
        """By number of its last part, each join that is read; it holds all parts up to there."""
        joins: dict[int, Value] = {}
        behind: dict[Value, Node] = {}
        operands: list[Value] = []
        for number, part in enumerate(self.parts):
            operands.append(part)
            if number not in map(self.last, self.channels):
                continue
            if len(operands) > 1:
                node = self.graph.make("concat", operands, name=f"{part.name}.joined", axis=1)
                behind[part] = node
                operands = [node.output]
            joins[number] = operands[0]
        nodes: list[Node] = [behind[v] for v in self.graph.inputs if v in behind]
        for node in self.graph.nodes:
            nodes += [node, *[behind[v] for v in node.outputs if v in behind]]
        self.graph.nodes = nodes
        return joins

    def _keep_order(self, reader: Node, join: Value, order: np.ndarray) -> None:
        """Let a depthwise convolution read all of `join`, and its readers what they want."""
        out = reader.output
        for position, operand in enumerate(reader.inputs[1:], 1):
            assert operand.data is not None
            data = np.zeros((join.shape[1], *operand.shape[1:]), operand.dtype)
            data[order] = operand.data
            reader.inputs[position] = self.graph.constant(operand.name, data)
        reader.inputs[0] = join
        reader.attrs["groups"] = join.shape[1]
        out.shape = (out.shape[0], join.shape[1], *out.shape[2:])
        for node in self.graph.consumers()[out]:
            widen(self.graph, node, out, order)

    def _source(self, value: Value) -> list[str]:
        """Names of the ONNX nodes that move channels on the way to `value`."""
        makers = {node.output: node for node in self.nodes}
        found: dict[Node, None] = {}
        pending = [value]
        while pending:
            node = makers.get(pending.pop())
            if node is not None and node not in found:
                found[node] = None
                pending += node.inputs
        return [name for node in self.nodes if node in found for name in node.source]


def _data(node: Node) -> list[Value]:
    """What a gather moves; its indices are no data."""
    return node.inputs if node.op == "concat" else node.inputs[:1]


def _is_free(node: Node, lanes: int) -> bool:
    """Whether whole vectors stay together: joined in place, or read in place."""
    if node.op == "concat":
        return all(v.shape[1:2] and v.shape[1] % lanes == 0 for v in node.inputs[:-1])
    run = channel_run(node)
    return run is not None and is_whole(run, node.inputs[0].shape[1], lanes)


def _origins(nodes: Sequence[Node], parts: Sequence[Value]) -> dict[Value, np.ndarray] | None:
    """Part and channel of every channel of all values; None if something else moves too."""
    found: dict[Value, np.ndarray] = {}
    for number, part in enumerate(parts):
        if part.is_constant or len(part.shape) != 4 or part.shape[0] != 1:
            return None
        if part.dtype != "float32" or part.shape[2:] != parts[0].shape[2:]:
            return None
        channels = np.arange(part.shape[1])
        found[part] = np.stack([np.full_like(channels, number), channels], axis=1)
    for node in nodes:
        if node.op == "concat":
            if node.attrs["axis"] != 1:
                return None
            found[node.output] = np.concatenate([found[v] for v in node.inputs])
            continue
        order = channel_order(node)
        if order is None:
            return None
        found[node.output] = found[node.inputs[0]][order]
    return found


def _is_dense(node: Node, value: Value) -> bool:
    """A pointwise convolution that reads all channels of `value` as its data."""
    if not is_plain(node) or node.attrs["groups"] > 1:
        return False
    return node.inputs[1].shape[2:] == (1, 1) and _reads_once(node, value)


def _is_depthwise(node: Node, value: Value) -> bool:
    """A depthwise convolution of `value` with as many outputs."""
    plain = is_depthwise(node) and is_plain(node) and not node.attrs.get("has_residual")
    return plain and _reads_once(node, value)


def _reads_once(node: Node, value: Value) -> bool:
    return node.inputs[0] is value and all(v is not value for v in node.inputs[1:])
