"""Which depthwise convolutions read and write row-major maps, without any copy between layouts.

A channel of a depthwise convolution meets no other, so channel blocks win nothing that a copy into
them and one back would pay for. Where only such convolutions lie between the network's inputs and
its outputs, all of them stay NCHW; next to any other convolution they work in its blocks.
"""

from __future__ import annotations

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.workload import Conv2d

MOST_STRIDE = 2  # horizontal; beyond it vectors would be gathered column by column


def is_row_major(conv: Conv2d) -> bool:
    """Whether the row-major kernel takes a convolution. Maps of one pixel are vectors already."""
    if not conv.is_depthwise or conv.input_shuffle > 1:
        return False
    pixels = min(conv.height * conv.width, conv.out_height * conv.out_width)
    return conv.stride[1] <= MOST_STRIDE and pixels > 1


def row_major_nodes(graph: Graph, convs: dict[Node, Conv2d]) -> set[Node]:
    """Of all scheduled convolutions those that read and write NCHW."""
    nodes = {node for node, conv in convs.items() if is_row_major(conv)}
    consumers = graph.consumers()
    inputs, outputs = set(graph.inputs), set(graph.outputs)

    def is_plain(value: Value, makers: set[Value]) -> bool:
        return value in inputs or value in makers

    while True:
        makers = {node.output for node in nodes}
        kept = {
            node
            for node in nodes
            if all(is_plain(v, makers) for v in node.inputs if not v.is_constant)
            and all(reader in nodes for reader in consumers.get(node.output, []))
            and (node.output in outputs or consumers.get(node.output))
        }
        if kept == nodes:
            return nodes
        nodes = kept
