"""Let a convolution add its residual and apply its activation while results are in registers."""

from __future__ import annotations

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.operators import registry


def fuse_epilogue(graph: Graph) -> int:
    """Fuse every `add` of an equal-shaped tensor, then a unary operator, into the convolution
    before it.
    """
    count = 0
    while _fuse_one(graph):
        count += 1
    return count


def _fuse_one(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    position = {n: i for i, n in enumerate(graph.nodes)}

    def made(value: Value) -> int:
        return position[producers[value]] if value in producers else -1

    def convolution(value: Value) -> Node | None:
        node = producers.get(value)
        if (
            node is None
            or node.op not in ("conv2d", "conv3d", "depthwise_branches")
            or node.attrs.get("activation") is not None
        ):
            return None
        private = graph.sole_reader(value, consumers) is not None
        return node if private and value.dtype == "float32" else None

    for node in graph.nodes:
        if node.op == "add" and len(node.inputs) == 2:
            # the later producer takes the add, so that its other operand exists already
            pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
            pairs.sort(key=lambda pair: -made(pair[0]))
            for value, other in pairs:
                conv = convolution(value)
                if conv is None or conv.attrs.get("has_residual"):
                    continue
                ready = not other.is_constant and made(other) < position[conv]
                if other.shape == value.shape and other is not value and ready:
                    conv.inputs.append(other)
                    conv.attrs["has_residual"] = True
                    _absorb(graph, conv, node)
                    return True
        elif len(node.inputs) == 1 and registry.get(node.op).scalar is not None:
            conv = convolution(node.inputs[0])
            if conv is not None and node.output.dtype == "float32":
                conv.attrs["activation"] = (node.op, tuple(sorted(node.attrs.items())))
                _absorb(graph, conv, node)
                return True
    return False


def _absorb(graph: Graph, conv: Node, node: Node) -> None:
    """Let `conv` produce what `node` did."""
    conv.outputs = node.outputs
    conv.source = (*conv.source, *node.source)
    graph.nodes.remove(node)
