"""Transposed convolutions with constant weights are convolutions of an input with gaps.

The kernel is mirrored and its channel axes swapped. Each phase of the output is then a convolution
of its own (`graph.parts`), or, where there are few filters, all phases or all taps are filters of a
single one (`phases_to_channels`).
"""

from __future__ import annotations

import numpy as np

from edgeconv.graph.ir import Graph, Node
from edgeconv.graph.volumes_to_slices import has_slice_form


def transposed_to_conv(graph: Graph) -> int:
    """Rewrite transposed convolutions of float32 with constant weights; how many there were.

    Those of three axes only where scheduled convolutions come of it.
    """
    count = 0
    for index, node in enumerate(graph.nodes):
        if node.op not in ("conv2d_transpose", "conv3d_transpose"):
            continue
        if node.output.dtype != "float32" or not all(v.is_constant for v in node.inputs[1:]):
            continue
        conv = _as_convolution(graph, node)
        if conv.op == "conv2d" or has_slice_form(conv):
            graph.nodes[index] = conv
            count += 1
    return count


def _as_convolution(graph: Graph, node: Node) -> Node:
    x, weight, *bias = node.inputs
    a = node.attrs
    assert weight.data is not None
    kernel = weight.shape[2:]
    rank = len(kernel)
    reach = [d * (k - 1) for d, k in zip(a["dilation"], kernel, strict=True)]
    begins = [r - p for r, p in zip(reach, a["padding"][:rank], strict=True)]
    ends = [
        r - p + o for r, p, o in zip(reach, a["padding"][rank:], a["output_padding"], strict=True)
    ]
    attrs = {
        "stride": (1,) * rank,
        "padding": (*begins, *ends),
        "dilation": a["dilation"],
        "groups": a["groups"],
        "has_bias": bool(bias),
        "input_stride": a["stride"],
    }
    filters = graph.constant(weight.name, mirrored(weight.data, a["groups"]))
    op = node.op.removesuffix("_transpose")
    return Node(node.name, op, [x, filters, *bias], node.outputs, attrs, node.source)


def mirrored(weight: np.ndarray, groups: int) -> np.ndarray:
    """[C, K/groups, …] of a transposed convolution as [K, C/groups, …] of a convolution."""
    c, kpg, *kernel = weight.shape
    flipped = np.flip(weight, tuple(range(2, weight.ndim)))
    grouped = flipped.reshape(groups, c // groups, kpg, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(grouped).reshape(groups * kpg, c // groups, *kernel)
