"""Dense layers with constant weights are 1×1 convolutions: rows of x are pixels, columns are
channels.
"""

from __future__ import annotations

from edgeconv.graph.ir import Graph, Node


def dense_to_conv(graph: Graph) -> int:
    """Rewrite every float32 `dense`; the number of rewrites.

    One row: [1, K] becomes [1, K, 1, 1] by a reshape, which costs nothing. Several rows: [M, K] is
    the NHWC form of [1, K, 1, M] (`pixels`), and the result is read back by `rows`; both are free
    too.
    """
    count = 0
    for index, node in reversed(list(enumerate(graph.nodes))):
        if node.op != "dense" or node.output.dtype != "float32":
            continue
        if not all(v.is_constant for v in node.inputs[1:]):
            continue
        graph.nodes[index : index + 1] = _as_convolution(graph, node)
        count += 1
    return count


def _as_convolution(graph: Graph, node: Node) -> list[Node]:
    x, weight, *bias = node.inputs
    m, k = x.shape
    data = weight.data
    assert data is not None
    kernel = graph.constant(weight.name, data.reshape(*data.shape, 1, 1))
    if m == 1:
        head = graph.make("reshape", [x], name=node.name, shape=(1, k, 1, 1))
    else:
        head = graph.make("pixels", [x], name=node.name)
    conv = graph.make(
        "conv2d",
        [head.output, kernel, *bias],
        name=node.name,
        source=node.source,
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
        has_bias=bool(bias),
    )
    if m == 1:
        tail = Node(node.name, "reshape", [conv.output], node.outputs, {"shape": node.output.shape})
    else:
        tail = Node(node.name, "rows", [conv.output], node.outputs)
    return [head, conv, tail]
