"""Channels gathered for a grouped convolution become zero blocks of a dense one.

Exporters write a sliding-channel convolution as slices of the channels, concatenated (a window that
runs over the last channel is itself two slices), and a grouped convolution of the result, sometimes
with its output channels permuted, at once or behind batch norm and activation. Here the gathering
goes into the weights: a dense convolution whose filters are zero for channels outside their window.
`cluster_channels` then finds the blocks of zeros, and a schedule leaves them out, so nothing is
gathered and nothing multiplied in vain.
"""

from __future__ import annotations

import numpy as np

from edgeconv.graph.channel_components import component_above, is_plain
from edgeconv.graph.fold_shuffle import NARROW, recognise_shuffle
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.operators.convolution import shuffled

GATHERS = ("slice", "gather", "concat", "channel_shuffle")


def fold_channel_gathers(graph: Graph) -> int:
    """Fold every gathering before a grouped convolution, and every permutation behind a dense one;
    the number of rewrites.
    """
    count = 0
    while recognise_shuffle(graph) or _flatten_indices(graph):
        pass
    while _fold_before(graph) or _fold_behind(graph):
        count += 1
    return count


Found = tuple[Value, np.ndarray] | None  # a tensor, and which of its channels


def gathered(
    value: Value, producers: dict[Value, Node], known: dict[Value, Found] | None = None
) -> Found:
    """The tensor whose channels make up `value`, and which, in order; None if there is not one.

    Looks through slices, gathers of constant indices, shuffles and concatenations of channels;
    `known` holds what has been found.
    """
    known = {} if known is None else known
    if value not in known:
        known[value] = _gathered(value, producers, known)
    return known[value]


def _gathered(value: Value, producers: dict[Value, Node], known: dict[Value, Found]) -> Found:
    node = producers.get(value)
    if node is None or node.op not in GATHERS or len(value.shape) < 2:
        return None
    if node.op == "concat":
        return _concatenated(node, producers, known)
    x = node.inputs[0]
    order = channel_order(node)
    if order is None:
        return None
    inner = gathered(x, producers, known)
    return (x, order) if inner is None else (inner[0], inner[1][order])


def channel_order(node: Node) -> np.ndarray | None:
    """The channels that a slice, gather or shuffle takes, if it takes nothing but channels."""
    shape = node.inputs[0].shape
    if len(shape) < 2 or len(shape) != len(node.output.shape):
        return None
    channels = np.arange(shape[1])
    if node.op == "slice":
        begin, size, step = (node.attrs[key] for key in ("begin", "size", "step"))
        others = [axis for axis in range(len(shape)) if axis != 1]
        if any(begin[a] or size[a] != shape[a] or step[a] != 1 for a in others):
            return None
        return np.asarray(begin[1] + step[1] * np.arange(size[1]))
    if node.op == "gather":
        indices = node.inputs[1].data
        if node.attrs["axis"] != 1 or indices is None or indices.ndim != 1:
            return None
        return np.asarray(channels[indices])
    return np.asarray(shuffled(channels, len(channels), node.attrs["groups"]))


def channel_run(node: Node) -> range | None:
    """The neighbouring channels that a slice takes, if it takes nothing but those."""
    order = channel_order(node) if node.op == "slice" else None
    if order is None or not len(order):
        return None
    run = range(int(order[0]), int(order[-1]) + 1)
    return run if len(run) == len(order) else None


def is_whole(run: range, channels: int, block: int) -> bool:
    """Whether neighbouring ones of `channels` are whole blocks; the last may be incomplete."""
    return run.start % block == 0 and (run.stop % block == 0 or run.stop == channels)


def _concatenated(node: Node, producers: dict[Value, Node], known: dict[Value, Found]) -> Found:
    """`gathered` for a concatenation; a part may be the whole tensor."""
    if node.attrs["axis"] != 1:
        return None
    parts = [gathered(x, producers, known) or (x, np.arange(x.shape[1])) for x in node.inputs]
    source = parts[0][0]
    if any(x is not source for x, _ in parts):
        return None
    return source, np.concatenate([order for _, order in parts])


def _flatten_indices(graph: Graph) -> bool:
    """A gather of channels by a table [P, U], reshaped to P·U channels, gathers them at once."""
    producers = graph.producers()
    for index, node in enumerate(graph.nodes):
        gather = producers.get(node.inputs[0]) if node.op == "reshape" else None
        if gather is None or gather.op != "gather" or gather.attrs["axis"] != 1:
            continue
        x, places = gather.inputs
        if places.data is None or places.data.ndim < 2 or len(x.shape) < 2:
            continue
        if node.output.shape != (x.shape[0], places.size, *x.shape[2:]):
            continue
        flat = graph.constant(places.name, places.data.reshape(-1))
        names = (*gather.source, *node.source)
        graph.nodes[index] = Node(node.name, "gather", [x, flat], node.outputs, {"axis": 1}, names)
        graph.prune()
        return True
    return False


def _fold_before(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        if not _takes_gathering(node):
            continue
        value = node.inputs[0]
        found = gathered(value, producers)
        readers = consumers.get(value, [])
        # left where it must be made anyway: for the caller, or for something else
        if found is None or value in graph.outputs or any(value in r.inputs[1:] for r in readers):
            continue
        if producers[value].op == "channel_shuffle" or not all(map(_takes_gathering, readers)):
            continue
        source, order = found
        if source.is_constant:
            continue
        for reader in readers:
            widen(graph, reader, source, order)
            reader.source = (*_sources(value, source, producers), *reader.source)
        graph.prune()
        return True
    return False


def _takes_gathering(node: Node) -> bool:
    """A grouped convolution worth more as a dense one with zeros than the gathering costs.

    Narrow groups of wide kernels have a schedule of their own, and depthwise ones too.
    """
    if not is_plain(node) or node.attrs["groups"] < 2:
        return False
    _, per_group, *kernel = node.inputs[1].shape
    return per_group >= (2 if max(kernel) == 1 else NARROW)


def widen(graph: Graph, node: Node, source: Value, order: np.ndarray) -> None:
    """Let a convolution of source[:, order], in groups or not, read `source` instead."""
    weight = node.inputs[1]
    assert weight.data is not None
    k, cpg, *kernel = weight.shape
    groups = node.attrs["groups"]
    wide = np.zeros((k, source.shape[1], *kernel), np.float64)
    for out in range(k):
        first = out // (k // groups) * cpg
        np.add.at(wide[out], order[first : first + cpg], weight.data[out].astype(np.float64))
    node.inputs[0] = source
    node.inputs[1] = graph.constant(weight.name, wide.astype(np.float32))
    node.attrs["groups"] = 1


def _sources(value: Value, source: Value, producers: dict[Value, Node]) -> tuple[str, ...]:
    """Names of the ONNX nodes that gather `value` from `source`, each once."""
    found: list[Node] = []
    pending = [value]
    while pending:
        made = pending.pop()
        node = producers.get(made)
        if made is source or node is None or node in found:
            continue
        found.append(node)
        pending += node.inputs
    return tuple(dict.fromkeys(name for node in reversed(found) for name in node.source))


def _fold_behind(graph: Graph) -> bool:
    """Let dense convolutions make those output channels that are read, in the order in which they
    are, also where batch norm, activations, pools or sums of them lie between.
    """
    producers, consumers = graph.producers(), graph.consumers()
    known: dict[Value, Found] = {}
    for node in graph.nodes:
        found = gathered(node.output, producers, known) if node.op in GATHERS else None
        if found is None:
            continue
        source, order = found
        if len(set(order)) < len(order):
            continue
        between = _alone_between(graph, node, source, consumers, producers)
        above = None if between is None else component_above(graph, source, between)
        if above is None or (above.readers and len(order) < source.shape[1]):
            continue
        above.take(graph, order)
        maker = producers[source]
        names = _sources(node.output, source, producers)
        maker.source = tuple(dict.fromkeys([*maker.source, *names]))
        graph.nodes = [n for n in graph.nodes if n is not node]
        graph.replace(source, node.output)
        maker.outputs = node.outputs
        graph.prune()
        return True
    return False


def _alone_between(
    graph: Graph,
    node: Node,
    source: Value,
    consumers: dict[Value, list[Node]],
    producers: dict[Value, Node],
) -> set[Node] | None:
    """The nodes from `source` to `node`, which is one of them; None if others see their results."""
    inner = {node}
    pending = list(node.inputs)
    between: set[Value] = set()
    while pending:
        value = pending.pop()
        if value is source or value.is_constant or value in between:
            continue
        between.add(value)
        inner.add(producers[value])
        pending += producers[value].inputs
    seen = any(v in graph.outputs or not inner.issuperset(consumers[v]) for v in between)
    return None if seen else inner
