"""Channel shuffles (ShuffleNet) cost nothing where a convolution can read its input shuffled.

Exporters write a shuffle as reshape [N, g, C/g, H, W] → transpose → reshape. It is recognised,
moved behind depthwise convolutions (whose filters are permuted at compile time), and absorbed: by a
dense convolution into the order of its weights, by a grouped one into the addresses it reads.
"""

from __future__ import annotations

import numpy as np

from edgeconv.graph.channel_components import is_depthwise
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.operators.convolution import shuffled

# with fewer channels a group, the schedule's lane permutes are worth more than this fold
NARROW = 8


def fold_shuffle(graph: Graph) -> int:
    """Recognise, move and absorb all shuffles; the number of rewrites."""
    count = 0
    while recognise_shuffle(graph) or _advance(graph):
        count += 1
    return count


def recognise_shuffle(graph: Graph) -> bool:
    """Make one reshape, transpose, reshape a `channel_shuffle`."""
    producers, consumers = graph.producers(), graph.consumers()

    def private(value: Value) -> bool:
        return graph.sole_reader(value, consumers) is not None

    for index, last in enumerate(graph.nodes):
        if last.op != "reshape":
            continue
        middle = producers.get(last.inputs[0])
        if middle is None or middle.op != "transpose" or not private(middle.output):
            continue
        first = producers.get(middle.inputs[0])
        if first is None or first.op != "reshape" or not private(first.output):
            continue
        groups = _shuffle_groups(first, middle, last)
        if groups is None:
            continue
        graph.nodes[index] = Node(
            last.name,
            "channel_shuffle",
            list(first.inputs),
            last.outputs,
            {"groups": groups},
            first.source + middle.source + last.source,
        )
        graph.prune()
        return True
    return False


def _shuffle_groups(first: Node, middle: Node, last: Node) -> int | None:
    """g if the three nodes are a shuffle in g groups, else None."""
    x, split = first.inputs[0].shape, first.output.shape
    if len(x) != 4 or last.output.shape != x or len(split) not in (4, 5):
        return None
    n, c, h, w = x
    spatial = (h, w) if len(split) == 5 else (h * w,)
    groups = split[1]
    if split != (n, groups, c // groups, *spatial) or groups < 2:
        return None
    perm = (0, 2, 1, 3, 4) if len(split) == 5 else (0, 2, 1, 3)
    return groups if tuple(middle.attrs["perm"]) == perm else None


def _advance(graph: Graph) -> bool:
    """Move one shuffle past, or into, the convolution that alone reads it."""
    consumers = graph.consumers()
    for shuffle in graph.nodes:
        if shuffle.op != "channel_shuffle":
            continue
        conv = graph.sole_reader(shuffle.output, consumers)
        if conv is None or conv.op != "conv2d":
            continue
        # the shuffled value must be the data, not the residual
        if conv.inputs[0] is not shuffle.output or conv.attrs.get("input_shuffle", 1) > 1:
            continue
        weight, groups = conv.inputs[1], shuffle.attrs["groups"]
        if weight.data is None or weight.dtype != "float32":
            continue
        order = shuffled(np.arange(shuffle.output.shape[1]), shuffle.output.shape[1], groups)
        if is_depthwise(conv) and not conv.attrs.get("has_residual"):
            _move_behind(graph, shuffle, conv, order)
        elif conv.attrs["groups"] == 1:
            conv.inputs[0] = shuffle.inputs[0]
            data = np.empty_like(weight.data)
            data[:, order] = weight.data
            conv.inputs[1] = graph.constant(weight.name, data)
            graph.nodes.remove(shuffle)
        elif weight.shape[1] >= NARROW:
            conv.inputs[0] = shuffle.inputs[0]
            conv.attrs["input_shuffle"] = groups
            graph.nodes.remove(shuffle)
        else:
            continue
        conv.source = shuffle.source + conv.source
        return True
    return False


def _move_behind(graph: Graph, shuffle: Node, conv: Node, order: np.ndarray) -> None:
    """depthwise(shuffle(x)) → shuffle(depthwise'(x)) with the filters in x's order."""
    conv.inputs[0] = shuffle.inputs[0]
    for position, value in enumerate(conv.inputs[1:], 1):
        assert value.data is not None
        data = np.empty_like(value.data)
        data[order] = value.data
        conv.inputs[position] = graph.constant(value.name, data)
    result = conv.output
    inner = Value(graph.fresh(f"{conv.name}.unshuffled"), result.shape, result.dtype)
    conv.outputs = [inner]
    moved = Node(shuffle.name, shuffle.op, [inner], [result], shuffle.attrs)
    graph.nodes.remove(shuffle)
    graph.nodes.insert(graph.nodes.index(conv) + 1, moved)
