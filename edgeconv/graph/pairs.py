"""The operator `conv_pair`, two convolutions in one kernel: its making and its halves.

Its inputs are those of the first convolution, then those of the second without the map between;
`first` and `second` hold the attributes of each.
"""

from __future__ import annotations

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.parts import parts


def is_pair(node: Node) -> bool:
    """True for two convolutions in one."""
    return node.op == "conv_pair"


def pair_of(graph: Graph, first: Node, second: Node) -> Node:
    """The node that does both, not inserted; it makes what `second` did."""
    pair = graph.make(
        "conv_pair",
        [*first.inputs, *second.inputs[1:]],
        name=first.name,
        source=(*first.source, *second.source),
        first=tuple(sorted(first.attrs.items())),
        second=tuple(sorted(second.attrs.items())),
    )
    pair.outputs = second.outputs
    return pair


def halves(node: Node) -> tuple[Node, Node]:
    """The two convolutions of a pair, as nodes of their own."""
    attrs, others = dict(node.attrs["first"]), dict(node.attrs["second"])
    count = 2 + bool(attrs.get("has_bias"))
    first = Node(node.name, "conv2d", node.inputs[:count], [], attrs, node.source)
    (part,) = parts(first)
    between = Value(f"{node.name}.between", part.conv.output_shape, "float32")
    first.outputs = [between]
    rest = [between, *node.inputs[count:]]
    return first, Node(node.name, "conv2d", rest, node.outputs, others, node.source)
