"""Transposed convolutions with constant weights are convolutions of an input with gaps.

The kernel is mirrored and its channel axes swapped. Each phase of the output is then a convolution
of its own (`graph.parts`), or, where there are few filters, all phases are filters of a single one
whose output channels `interleave` spreads over the map.
"""

from __future__ import annotations

import numpy as np

from edgeconv.graph.ir import Graph, Node


def transposed_to_conv(graph: Graph) -> int:
    """Rewrite every float32 `conv2d_transpose` of constant weights; the number of rewrites."""
    count = 0
    for index, node in reversed(list(enumerate(graph.nodes))):
        if node.op != "conv2d_transpose" or node.output.dtype != "float32":
            continue
        if not all(v.is_constant for v in node.inputs[1:]):
            continue
        graph.nodes[index : index + 1] = _as_convolution(graph, node)
        count += 1
    return count


def _as_convolution(graph: Graph, node: Node) -> list[Node]:
    x, weight, *bias = node.inputs
    a = node.attrs
    assert weight.data is not None
    kernel = weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(a["dilation"], kernel, strict=True)]
    begins = [r - p for r, p in zip(reach, a["padding"][:2], strict=True)]
    ends = [r - p + o for r, p, o in zip(reach, a["padding"][2:], a["output_padding"], strict=True)]
    attrs = {
        "stride": (1, 1),
        "padding": (*begins, *ends),
        "dilation": a["dilation"],
        "groups": a["groups"],
        "has_bias": bool(bias),
        "input_stride": a["stride"],
    }
    filters = graph.constant(weight.name, mirrored(weight.data, a["groups"]))
    return [Node(node.name, "conv2d", [x, filters, *bias], node.outputs, attrs, node.source)]


def mirrored(weight: np.ndarray, groups: int) -> np.ndarray:
    """[C, K/groups, R, S] of a transposed convolution as [K, C/groups, R, S] of a convolution."""
    c, kpg, r, s = weight.shape
    grouped = weight[:, :, ::-1, ::-1].reshape(groups, c // groups, kpg, r, s)
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(groups * kpg, c // groups, r, s)
