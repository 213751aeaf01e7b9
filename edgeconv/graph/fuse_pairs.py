"""Make two convolutions one where that saves time: pointwise and depthwise, in either order.

In a chain of such layers every one has two neighbours to be fused with, and can take one. Chosen is
the set of pairs that saves most: the heaviest matching of a path.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeconv.graph import depthwise_pointwise, pointwise_depthwise
from edgeconv.graph.ir import Graph, Node
from edgeconv.graph.pairs import pair_of

RULES = (pointwise_depthwise.mismatch, depthwise_pointwise.mismatch)

Saving = Callable[[Graph, Node, Node], float]


def fuse_pairs(graph: Graph, saving: Saving | None = None) -> int:
    """Fuse the pairs that save most; the number of pairs.

    `saving` tells what fusing two nodes saves (cycles; nothing is gained at 0 or below); without it
    none are fused.
    """
    if saving is None:
        return 0
    edges = candidates(graph)
    gains = {node: saving(graph, node, following) for node, following in edges.items()}
    chosen = 0
    for chain in _chains(edges):
        for index in best_matching([gains[node] for node in chain]):
            first = chain[index]
            second = edges[first]
            pair = pair_of(graph, first, second)
            graph.nodes[graph.nodes.index(second)] = pair
            graph.nodes.remove(first)
            chosen += 1
    return chosen


def candidates(graph: Graph) -> dict[Node, Node]:
    """For each node that could be fused with the only reader of its output: that reader."""
    consumers = graph.consumers()
    found = {}
    for node in graph.nodes:
        if node.op != "conv2d":
            continue
        reader = graph.sole_reader(node.output, consumers)
        if reader is not None and any(rule(node, reader) is None for rule in RULES):
            found[node] = reader
    return found


def _chains(edges: dict[Node, Node]) -> list[list[Node]]:
    """The first nodes of candidates, each chain in order; neighbours share a node."""
    inner = set(edges.values())
    chains = []
    for start in edges:
        if start in inner:
            continue
        chain = [start]
        while edges[chain[-1]] in edges:
            chain.append(edges[chain[-1]])
        chains.append(chain)
    return chains


def best_matching(gains: list[float]) -> list[int]:
    """Which edges of a path to take, no two neighbours, for the greatest sum of positive gains."""
    best: list[tuple[float, list[int]]] = [(0.0, []), (0.0, [])]
    for index, gain in enumerate(gains):
        without, before = best[-1], best[-2]
        taken = (before[0] + gain, [*before[1], index])
        best.append(taken if gain > 0 and taken[0] > without[0] else without)
    return best[-1][1]
