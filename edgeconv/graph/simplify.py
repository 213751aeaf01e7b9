"""Rewrites that are always right: reshapes that do nothing, in chains, or before an activation."""

from __future__ import annotations

from edgeconv.graph.ir import Graph, Node
from edgeconv.operators import registry


def simplify(graph: Graph) -> int:
    """Apply until nothing changes; the number of rewrites."""
    count = 0
    while _merge_reshapes(graph) or _sink_reshape(graph):
        count += 1
    graph.prune()
    return count


def _merge_reshapes(graph: Graph) -> bool:
    producers = graph.producers()
    for node in graph.nodes:
        if node.op != "reshape":
            continue
        (x,) = node.inputs
        if x.shape == node.output.shape and node.output not in graph.outputs:
            graph.replace(node.output, x)
            graph.nodes.remove(node)
            return True
        before = producers.get(x)
        if before is not None and before.op == "reshape":
            node.inputs = list(before.inputs)
            graph.prune()
            return True
    return False


def _sink_reshape(graph: Graph) -> bool:
    """f(reshape(x)) → reshape(f(x)) for unary elementwise f, so that f can join x's producer."""
    producers, consumers = graph.producers(), graph.consumers()
    for index, node in enumerate(graph.nodes):
        if len(node.inputs) != 1 or registry.get(node.op).scalar is None:
            continue
        reshape = producers.get(node.inputs[0])
        if reshape is None or reshape.op != "reshape" or reshape.output in graph.outputs:
            continue
        if len(consumers[reshape.output]) != 1:
            continue
        (x,) = reshape.inputs
        inner = graph.make(node.op, [x], name=node.name, source=node.source, **node.attrs)
        outer = Node(reshape.name, "reshape", [inner.output], node.outputs, reshape.attrs)
        graph.nodes[index : index + 1] = [inner, outer]
        graph.nodes.remove(reshape)
        return True
    return False
