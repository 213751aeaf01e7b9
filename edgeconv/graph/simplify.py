"""Rewrites that are always right: reshapes that do nothing, in chains, or before an activation;
neighbouring slices of channels, joined again; pools of whole maps as reductions.
"""

from __future__ import annotations

from edgeconv.graph.channel_gathers import channel_run
from edgeconv.graph.ir import Graph, Node
from edgeconv.operators import registry
from edgeconv.operators.pooling import POOLS


def simplify(graph: Graph) -> int:
    """Apply until nothing changes; the number of rewrites."""
    count = _pool_whole_maps(graph)
    while _merge_reshapes(graph) or _sink_reshape(graph) or _join_slices(graph):
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
        if reshape is None or reshape.op != "reshape":
            continue
        if graph.sole_reader(reshape.output, consumers) is None:
            continue
        (x,) = reshape.inputs
        inner = graph.make(node.op, [x], name=node.name, source=node.source, **node.attrs)
        outer = Node(reshape.name, "reshape", [inner.output], node.outputs, reshape.attrs)
        graph.nodes[index : index + 1] = [inner, outer]
        graph.nodes.remove(reshape)
        return True
    return False


def _pool_whole_maps(graph: Graph) -> int:
    """Pools whose one window is the whole map are reductions."""
    count = 0
    for index, node in enumerate(graph.nodes):
        if node.op not in POOLS:
            continue
        if node.attrs["kernel"] != node.inputs[0].shape[2:] or any(node.attrs["padding"]):
            continue
        op = "reduce_max" if node.op == "max_pool2d" else "reduce_mean"
        attrs = {"axes": (2, 3), "keepdims": True}
        graph.nodes[index] = Node(node.name, op, node.inputs, node.outputs, attrs, node.source)
        count += 1
    return count


def _join_slices(graph: Graph) -> bool:
    """concat(x[:, :k], x[:, k:], …) → concat(x, …), as in YOLOv8's C2f blocks."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op != "concat" or node.attrs["axis"] != 1 or len(node.output.shape) != 4:
            continue
        for i in range(len(node.inputs) - 1):
            end = 0
            first = producers.get(node.inputs[i])
            if first is None or first.op != "slice":
                continue
            x = first.inputs[0]
            for count, value in enumerate(node.inputs[i:], 1):
                part = producers.get(value)
                if part is None or part.inputs[0] is not x:
                    break
                channels = channel_run(part)
                if channels is None or channels.start != end:
                    break
                end = channels.stop
                if end == x.shape[1]:
                    node.inputs[i : i + count] = [x]
                    _skip_if_alone(graph, node)
                    return True
    return False


def _skip_if_alone(graph: Graph, node: Node) -> None:
    """A concatenation of one operand is that operand."""
    if len(node.inputs) == 1 and node.output not in graph.outputs:
        graph.replace(node.output, node.inputs[0])
        graph.nodes.remove(node)
