"""A sum of linear depthwise convolutions of one input is one depthwise convolution."""

from __future__ import annotations

from dataclasses import replace

from edgeconv.graph.depthwise_terms import Finder, Term, added, identity, put_sum
from edgeconv.graph.fold_scale import per_channel
from edgeconv.graph.ir import Graph, Node, Value


def merge_depthwise_sum(graph: Graph) -> int:
    """Merge depthwise convolutions of equal strides, and the input itself, plain or scaled, where
    they are only added up; returns how often.

    Filters may have other sizes, dilations and paddings: weights at the same offset add up, and
    those at others become taps of their own, so nothing is filled up with zeros.
    """
    count = 0
    while _merge_one(graph):
        count += 1
    return count


def _merge_one(graph: Graph) -> bool:
    finder = Finder(graph)
    for root in graph.nodes:
        if not finder.is_root(root) or root.output.dtype != "float32":
            continue
        leaves = finder.summands(root)
        found = {
            i: term
            for i, v in enumerate(leaves)
            if v.shape == root.output.shape and (term := finder.linear(v)) is not None
        }
        for term in found.values():
            members = _members(leaves, found, term, root.output)
            if len(members) > 1 and any(len(found[i].taps) > 1 for i in members if i in found):
                _rewrite(graph, root, leaves, members)
                return True
    return False


def _members(
    leaves: list[Value], found: dict[int, Term], like: Term, out: Value
) -> dict[int, Term]:
    """The leaves that are linear in the same input, at the same stride."""
    members = {
        i: term for i, term in found.items() if term.x is like.x and term.stride == like.stride
    }
    if like.stride == (1, 1):
        for i, value in enumerate(leaves):
            if value is like.x and value.shape == out.shape:
                members[i] = identity(value)
    return members


def _rewrite(graph: Graph, root: Node, leaves: list[Value], members: dict[int, Term]) -> None:
    out = root.output
    total, rest = added([members[i] for i in sorted(members)]), []
    for i, leaf in enumerate(leaves):
        if i in members:
            continue
        bias = None if leaf.data is None else per_channel(leaf.data, out)
        if bias is None:
            rest.append(leaf)
        else:
            total = replace(total, bias=bias + (0 if total.bias is None else total.bias))
    put_sum(graph, root, [total], rest)
