"""Several depthwise convolutions of one input, summed or concatenated, in one pass over it."""

from __future__ import annotations

from edgeconv.graph.depthwise_terms import Finder, Term, identity, make_node, put, put_sum
from edgeconv.graph.ir import Graph, Node, Value


def depthwise_branches(graph: Graph) -> int:
    """Gather depthwise convolutions of equal strides, each perhaps with an activation, where
    nothing but their sum, or their channels behind each other, is used; returns how often.

    Other summands and other inputs of the concatenation stay.
    """
    count = 0
    while _gather_one(graph):
        count += 1
    return count


def _gather_one(graph: Graph) -> bool:
    finder = Finder(graph)
    for node in graph.nodes:
        if len(node.outputs) != 1 or node.output.dtype != "float32":
            continue
        if finder.is_root(node) and _gather_sum(graph, finder, node):
            return True
        if node.op == "concat" and _gather_concat(graph, finder, node):
            return True
    return False


def _gather_sum(graph: Graph, finder: Finder, root: Node) -> bool:
    leaves = finder.summands(root)
    shape = root.output.shape
    found = {
        i: term
        for i, v in enumerate(leaves)
        if v.shape == shape and (term := finder.term(v)) is not None
    }
    for like in found.values():
        members = {i: term for i, term in found.items() if _go_together(term, like)}
        if len(members) < 2:
            continue
        if like.stride == (1, 1):
            members |= {
                i: identity(v) for i, v in enumerate(leaves) if v is like.x and v.shape == shape
            }
        rest = [v for i, v in enumerate(leaves) if i not in members]
        terms = [members[i] for i in sorted(members)]
        put_sum(graph, root, terms, rest)
        return True
    return False


def _go_together(a: Term, b: Term) -> bool:
    return a.x is b.x and a.stride == b.stride


def _gather_concat(graph: Graph, finder: Finder, node: Node) -> bool:
    """The first run of neighbouring inputs that go together."""
    if node.attrs["axis"] != 1 or len(node.output.shape) != 4:
        return False
    terms = [finder.term(value) for value in node.inputs]
    for start, first in enumerate(terms):
        if first is None:
            continue
        run = [first]
        for other in terms[start + 1 :]:
            if other is None or not _go_together(other, first):
                break
            run.append(other)
        if len(run) < 2:
            continue
        made = make_node(graph, run, node.output.shape[2:], node.name, concat=True)
        inputs: list[Value] = [
            *node.inputs[:start],
            made.output,
            *node.inputs[start + len(run) :],
        ]
        if len(inputs) == 1:
            put(graph, node, [made], node.source)
        else:
            joined = graph.make("concat", inputs, name=node.name, source=node.source, axis=1)
            put(graph, node, [made, joined], ())
        return True
    return False
