"""Depthwise convolutions as lists of taps: how rules find several on one input and make them one.

A tap is an offset (dy, dx) from an output pixel, times the stride, to the input pixel it reads;
dilation and padding are in the offsets, so filters with other paddings go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeconv.graph.channel_components import is_depthwise, is_plain
from edgeconv.graph.fold_scale import per_channel
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.operators import registry
from edgeconv.workload import Activation, Branch, Branches

Offset = tuple[int, int]


@dataclass(frozen=True)
class Term:
    """activation(depthwise convolution of x), made by `source`.

    Attributes:
        x: the input.
        stride: rows and columns.
        taps: the weight of each channel at each offset, float64.
        bias: one number a channel, float64, if there is one.
    """

    x: Value
    stride: tuple[int, int]
    taps: dict[Offset, np.ndarray]
    bias: np.ndarray | None = None
    activation: Activation | None = None
    source: tuple[str, ...] = ()


class Finder:
    """Recognises the terms of a graph as it is."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers, self.consumers = graph.producers(), graph.consumers()

    def is_private(self, value: Value) -> bool:
        """Whether one operand reads the value, and nobody outside the graph."""
        return self.graph.sole_reader(value, self.consumers) is not None

    def linear(self, value: Value) -> Term | None:
        """The value as a private depthwise convolution, or as x times one number a channel."""
        node = self.producers.get(value)
        if node is None or not self.is_private(value) or value.dtype != "float32":
            return None
        if node.op == "multiply" and len(node.inputs) == 2:
            for x, c in (node.inputs, node.inputs[::-1]):
                if c.data is not None and not x.is_constant and x.shape == value.shape:
                    scale = per_channel(c.data, x) if len(x.shape) == 4 else None
                    if scale is not None:
                        return Term(x, (1, 1), {(0, 0): scale}, source=node.source)
            return None
        return term_of(node)

    def term(self, value: Value) -> Term | None:
        """The value as a private depthwise convolution, perhaps through an activation."""
        node = self.producers.get(value)
        if node is None or not self.is_private(value) or value.dtype != "float32":
            return None
        if len(node.inputs) != 1 or registry.get(node.op).scalar is None:
            return term_of(node)
        inner = self.producers.get(node.inputs[0])
        if inner is None or not self.is_private(node.inputs[0]):
            return None
        found = term_of(inner)
        if found is None:
            return None
        activation = (node.op, tuple(sorted(node.attrs.items())))
        return replace(found, activation=activation, source=(*found.source, *node.source))

    def summands(self, root: Node) -> list[Value]:
        """What a tree of additions adds up; additions that somebody else reads are leaves."""
        found: list[Value] = []
        for value in root.inputs:
            node = self.producers.get(value)
            inside = node is not None and is_sum(node) and self.is_private(value)
            if inside and value.shape == root.output.shape and node is not None:
                found += self.summands(node)
            else:
                found.append(value)
        return found

    def is_root(self, node: Node) -> bool:
        """Whether an addition is not itself a summand of a larger tree."""
        if not is_sum(node):
            return False
        readers = self.consumers.get(node.output, [])
        inner = self.is_private(node.output) and is_sum(readers[0])
        return not (inner and readers[0].output.shape == node.output.shape)


def is_sum(node: Node) -> bool:
    """An addition of two maps, or of a map and a constant."""
    return node.op == "add" and len(node.inputs) == 2 and len(node.output.shape) == 4


def identity(x: Value) -> Term:
    """x itself."""
    return Term(x, (1, 1), {(0, 0): np.ones(x.shape[1])})


def term_of(node: Node) -> Term | None:
    """A depthwise convolution, with as many outputs as inputs and nothing fused, as a term."""
    a, weight = node.attrs, node.inputs[1].data if len(node.inputs) > 1 else None
    if node.op not in ("conv2d", "depthwise_branches") or weight is None:
        return None
    if a.get("has_residual") or a.get("activation") is not None or len(node.outputs) != 1:
        return None
    if not all(v.is_constant for v in node.inputs[1:]) or node.output.dtype != "float32":
        return None
    x, (top, left, *_) = node.inputs[0], a["padding"]
    if node.op == "conv2d":
        if not is_depthwise(node) or not is_plain(node) or min(a["padding"]) < 0:
            return None
        dy, dx = a["dilation"]
        places = [(kh * dy, kw * dx) for kh, kw in np.ndindex(*weight.shape[2:])]
        flat = weight.reshape(weight.shape[0], -1)
    else:
        (branch, *others) = a["branches"].members
        if others or branch.activation is not None:
            return None
        places, flat = list(branch.taps), weight
    taps = {(y - top, z - left): flat[:, i].astype(np.float64) for i, (y, z) in enumerate(places)}
    bias = node.inputs[2].data if a.get("has_bias") else None
    return Term(
        x,
        a["stride"],
        taps,
        None if bias is None else bias.astype(np.float64),
        source=node.source,
    )


def added(terms: Sequence[Term]) -> Term:
    """Linear terms of one input as one: weights at equal offsets, and biases, add up."""
    taps: dict[Offset, np.ndarray] = {}
    bias: np.ndarray | None = None
    for term in terms:
        for offset, weight in term.taps.items():
            taps[offset] = taps[offset] + weight if offset in taps else weight
        if term.bias is not None:
            bias = term.bias if bias is None else bias + term.bias
    source = tuple(dict.fromkeys(name for term in terms for name in term.source))
    return Term(terms[0].x, terms[0].stride, taps, bias, source=source)


@dataclass(frozen=True)
class _Axis:
    """The window around the taps along one axis."""

    size: int
    before: int
    after: int


def _axis(offsets: Iterable[int], extent: int, out: int, stride: int) -> _Axis:
    low, high = min(0, *offsets), max(0, *offsets)
    after = max(0, (out - 1) * stride + high - (extent - 1))
    size = high - low + 1
    beyond = extent - low + after - size - (out - 1) * stride
    if beyond >= stride:  # outputs end before the input does: the window reaches as far
        size += beyond
    return _Axis(size, -low, after)


def _live(term: Term, out: Sequence[int]) -> dict[Offset, np.ndarray]:
    """The taps that some output pixel finds inside the map, and that are not zero."""
    height, width = term.x.shape[2:]

    def reads(offset: int, extent: int, outputs: int, stride: int) -> bool:
        return any(0 <= i * stride + offset < extent for i in range(outputs))

    found = {
        (dy, dx): weight
        for (dy, dx), weight in sorted(term.taps.items())
        if reads(dy, height, out[0], term.stride[0])
        and reads(dx, width, out[1], term.stride[1])
        and weight.any()
    }
    return found or {(0, 0): np.zeros(term.x.shape[1])}


def make_node(
    graph: Graph, terms: Sequence[Term], out: Sequence[int], name: str, *, concat: bool
) -> Node:
    """One node that makes the sum of the terms, or puts their channels behind each other.

    A single linear term whose taps fill a grid is an ordinary convolution. `out` is the height and
    width of the output.
    """
    first = terms[0]
    x, (sy, sx) = first.x, first.stride
    lists = [_live(term, out) for term in terms]
    rows, columns = ([offset[axis] for taps in lists for offset in taps] for axis in (0, 1))
    y = _axis(rows, x.shape[2], out[0], sy)
    z = _axis(columns, x.shape[3], out[1], sx)
    members = tuple(
        Branch(tuple((dy + y.before, dx + z.before) for dy, dx in taps), term.activation)
        for term, taps in zip(terms, lists, strict=True)
    )
    weight = np.stack([w for taps in lists for w in taps.values()], axis=1).astype(np.float32)
    attrs: dict[str, Any] = {
        "stride": first.stride,
        "padding": (y.before, z.before, y.after, z.after),
    }
    op = "depthwise_branches"
    (grid, *_) = (branch.grid for branch in members)
    if len(terms) == 1 and first.activation is None and grid is not None:
        (r, s), dilation = grid
        if (dilation[0] * (r - 1) + 1, dilation[1] * (s - 1) + 1) == (y.size, z.size):
            op = "conv2d"
            weight = weight.reshape(-1, 1, r, s)
            attrs |= {"dilation": dilation, "groups": x.shape[1]}
    if op != "conv2d":
        attrs |= {"branches": Branches(members, concat), "kernel_size": (y.size, z.size)}
    inputs = [x, graph.constant(f"{name}.weight", weight)]
    if any(term.bias is not None for term in terms):
        zero = np.zeros(x.shape[1])
        biases = [zero if term.bias is None else term.bias for term in terms]
        inputs.append(graph.constant(f"{name}.bias", np.concatenate(biases).astype(np.float32)))
    source = tuple(dict.fromkeys(s for term in terms for s in term.source))
    return graph.make(op, inputs, name=name, source=source, has_bias=len(inputs) > 2, **attrs)


def put_sum(graph: Graph, root: Node, terms: Sequence[Term], rest: Sequence[Value]) -> None:
    """Replace an addition by a node for the terms and additions of the rest."""
    nodes = [make_node(graph, terms, root.output.shape[2:], root.name, concat=False)]
    for value in rest:
        nodes.append(graph.make("add", [nodes[-1].output, value], name=root.name))
    put(graph, root, nodes, root.source)


def put(graph: Graph, old: Node, new: Sequence[Node], source: Iterable[str]) -> None:
    """Replace a node by `new`, whose last makes its output; `source` goes to the first."""
    first = new[0]
    first.source = tuple(dict.fromkeys((*first.source, *source)))
    at = graph.nodes.index(old)
    graph.nodes[at : at + 1] = new
    graph.replace(old.output, new[-1].output)
    graph.prune()
