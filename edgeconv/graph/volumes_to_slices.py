"""3-D convolutions as 2-D ones over the slices of their volumes, a kernel for each tap in depth.

[N, C, D, H, W] becomes the batch [N·D, C, H, W]. Between two convolutions nothing is moved:
elementwise operators follow the slices.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.parts import has_constant_weights, phases, slice_runs
from edgeconv.operators.convolution import Depth
from edgeconv.operators.fused import pattern_of
from edgeconv.operators.registry import Pattern

MOST_PARTS = 64  # each is a kernel to compile


def volumes_to_slices(graph: Graph) -> int:
    """Rewrite every float32 `conv3d` of constant weights; the number of rewrites."""
    count = 0
    nodes: list[Node] = []
    known: dict[Value, Value] = {}  # volumes, and their slices

    def slices(value: Value) -> Value:
        if value not in known:
            made = graph.make("slices", [value], name=f"{value.name}.slices")
            nodes.append(made)
            known[value] = made.output
        return known[value]

    def replace(node: Node, new: Node) -> None:
        back = {"depth": node.output.shape[2]}
        nodes.append(new)
        nodes.append(Node(node.name, "volumes", [new.output], node.outputs, back, node.source))
        known[node.output] = new.output

    for node in graph.nodes:
        if _is_rewritable(node):
            replace(node, _as_conv2d(graph, node, slices))
            count += 1
        elif _follows(node, known):
            inputs = [known.get(v, v) for v in node.inputs]
            replace(
                node, graph.make(node.op, inputs, name=node.name, source=node.source, **node.attrs)
            )
        else:
            nodes.append(node)
    graph.nodes = nodes
    graph.prune()
    return count


def _is_rewritable(node: Node) -> bool:
    if node.op != "conv3d" or node.output.dtype != "float32":
        return False
    return has_constant_weights(node) and has_slice_form(node)


def has_slice_form(node: Node) -> bool:
    """Whether a `conv3d` can be rewritten: few kernels will do, and no output is without taps."""
    gaps = node.attrs.get("input_stride", (1, 1, 1))
    runs = slice_runs(_depth(node))
    if len(runs) * gaps[1] * gaps[2] > MOST_PARTS or not all(run.taps for run in runs):
        return False
    a, x, out, kernel = node.attrs, node.inputs[0], node.output, node.inputs[1].shape[2:]
    return gaps[1:] == (1, 1) or all(
        phase.taps
        for i in (1, 2)
        for phase in phases(
            x.shape[2 + i], out.shape[2 + i], kernel[i], a["dilation"][i], a["padding"][i], gaps[i]
        )
    )


def _follows(node: Node, known: dict[Value, Value]) -> bool:
    """Whether an elementwise operator reads nothing but slices of one shape, and single numbers."""
    if len(node.outputs) != 1 or pattern_of(node.op, node.attrs) is not Pattern.ELEMENTWISE:
        return False
    volumes = [v for v in node.inputs if v.size != 1 or not v.is_constant]
    same = all(v in known and v.shape == node.output.shape for v in volumes)
    return bool(volumes) and same and all(len(v.shape) <= 1 for v in node.inputs if v not in known)


def _depth(node: Node) -> Depth:
    a = node.attrs
    size, taps = node.inputs[0].shape[2], node.inputs[1].shape[2]
    gap = a.get("input_stride", (1, 1, 1))[0]
    pads = a["padding"]
    return Depth(size, taps, a["stride"][0], a["dilation"][0], pads[0], pads[3], gap)


def _as_conv2d(graph: Graph, node: Node, slices: Callable[[Value], Value]) -> Node:
    x, weight, *rest = node.inputs
    a = node.attrs
    assert weight.data is not None
    k, cpg, taps, r, s = weight.shape
    filters = graph.constant(weight.name, weight.data.reshape(k, cpg, taps * r, s))
    bias = rest[:1] if a.get("has_bias") else []
    residual = [slices(rest[-1])] if a.get("has_residual") else []
    _, top, left, _, bottom, right = a["padding"]
    depth = _depth(node)
    whole = (depth.taps, depth.stride, depth.before, depth.after, depth.gap) == (1, 1, 0, 0, 1)
    return graph.make(
        "conv2d",
        [slices(x), filters, *bias, *residual],
        name=node.name,
        source=node.source,
        stride=a["stride"][1:],
        padding=(top, left, bottom, right),
        dilation=a["dilation"][1:],
        groups=a["groups"],
        has_bias=bool(bias),
        has_residual=bool(residual),
        activation=a.get("activation"),
        input_stride=a.get("input_stride", (1, 1, 1))[1:],
        depth=None if whole else depth,
    )
