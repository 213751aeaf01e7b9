"""What an ONNX network consists of: layers, kinds of convolution, work and parameters.

Counted on the imported graph, before any optimisation: shapes are fixed, constants folded, and a
few ONNX operators are replaced by simpler ones.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx

from edgeconv.artifact import TensorSpec
from edgeconv.graph.depthwise_branches import depthwise_branches
from edgeconv.graph.findings import findings
from edgeconv.graph.fold_scale import fold_scale
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.merge_depthwise_sum import merge_depthwise_sum
from edgeconv.graph.parts import parts
from edgeconv.graph.recognise_activation import recognise_activation
from edgeconv.importer import import_model, read_model

_INDEX_TYPES = ("bool", "int16", "int32", "int64", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class InspectedLayer:
    """One operator.

    Attributes:
        name: the ONNX node it came from.
        op: edgeconv's operator.
        kind: of convolution: dense, pointwise, grouped, depthwise, each perhaps dilated; "fully
            connected"; for other operators the same as `op`.
        workload: shapes, in the shape grammar for 2-D convolutions.
        inputs, outputs: shapes of the tensors that are not constant.
        macs: multiply-accumulates of one run, of convolutions and matrix products.
        parameters: elements of its constants.
    """

    name: str
    op: str
    kind: str
    workload: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    macs: int
    parameters: int

    @property
    def is_convolution(self) -> bool:
        """True for convolutions of any rank, transposed ones too."""
        return "conv" in self.op


@dataclass(frozen=True)
class KindTotal:
    """All layers of one kind."""

    kind: str
    layers: int
    macs: int
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """A network: its interface, its layers in order, how often it stores a parameter (once), and
    what compiling it will find: dead filters, structures that ONNX has no operator for; `blocks`
    are the depthwise convolutions that become one operator, a line each.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[InspectedLayer, ...]
    parameters: int
    findings: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(layer.macs for layer in self.layers)

    @property
    def kinds(self) -> tuple[KindTotal, ...]:
        """Totals by kind, the most work first."""
        groups: dict[str, list[InspectedLayer]] = {}
        for layer in self.layers:
            groups.setdefault(layer.kind, []).append(layer)
        totals = [
            KindTotal(kind, len(g), sum(x.macs for x in g), sum(x.parameters for x in g))
            for kind, g in groups.items()
        ]
        return tuple(sorted(totals, key=lambda t: (-t.macs, -t.layers, t.kind)))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        totals = {"macs": self.macs, "kinds": [asdict(k) for k in self.kinds]}
        return {**asdict(self), **totals}


def inspect(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Inspection:
    """List the layers of an ONNX network with kinds, shapes, multiply-accumulates and parameters.

    Raises:
        ModelError: the file is malformed, or its shapes are not fixed.
        UnsupportedOperator: it needs operators edgeconv lacks; all of them are named.
    """
    graph = import_model(read_model(model), input_shapes)
    found = inspect_graph(graph)
    return replace(found, blocks=_blocks(graph))


def _blocks(graph: Graph) -> tuple[str, ...]:
    """What the passes that recognise blocks find; the graph is changed."""
    for run in (recognise_activation, fold_scale, merge_depthwise_sum, fold_scale):
        run(graph)
    depthwise_branches(graph)
    found = []
    for node in graph.nodes:
        if node.op == "depthwise_branches":
            conv = parts(node)[0].conv
            found.append(f"{conv.kind}: {conv}, from {', '.join(node.source)}")
    return tuple(found)


def inspect_graph(graph: Graph) -> Inspection:
    """The same for a network that is imported already."""
    constants = {v for node in graph.nodes for v in node.inputs if _is_parameter(v)}
    return Inspection(
        graph.name,
        tuple(TensorSpec(v.name, v.shape, v.dtype) for v in graph.inputs),
        tuple(TensorSpec(v.name, v.shape, v.dtype) for v in graph.outputs),
        tuple(_layer(node) for node in graph.nodes),
        sum(v.size for v in constants),
        findings(graph),
    )


def _layer(node: Node) -> InspectedLayer:
    inputs = tuple(v.shape for v in node.inputs if not v.is_constant)
    outputs = tuple(v.shape for v in node.outputs)
    if node.op == "conv2d":
        workload = str(parts(node)[0].conv)
    else:
        workload = f"{_shapes(inputs)} -> {_shapes(outputs)}"
    return InspectedLayer(
        node.source[0] if node.source else node.name,
        node.op,
        _kind(node),
        workload,
        inputs,
        outputs,
        _macs(node),
        sum(v.size for v in node.inputs if _is_parameter(v)),
    )


def _is_parameter(value: Value) -> bool:
    """Constants but scalars of a formula, and indices."""
    return value.is_constant and len(value.shape) > 0 and value.dtype not in _INDEX_TYPES


def _kind(node: Node) -> str:
    if node.op == "conv2d":
        return parts(node)[0].conv.kind
    if "conv" not in node.op:
        return "fully connected" if node.op == "dense" else node.op
    groups = int(node.attrs.get("groups", 1))
    per_group = node.inputs[0].shape[1] // groups
    kind = "dense" if groups == 1 else "depthwise" if per_group == 1 else "grouped"
    if "transpose" in node.op:
        kind = f"transposed {kind}"
    return f"{kind} 3-D" if "3d" in node.op else kind


def _macs(node: Node) -> int:
    """Multiply-accumulates; taps that fall on padding count."""
    if "conv" in node.op:
        weight = node.inputs[1].shape  # [K, C/groups, …]; transposed: [C, K/groups, …]
        pixels = node.inputs[0] if "transpose" in node.op else node.outputs[0]
        return pixels.size * math.prod(weight[1:])
    if node.op == "dense" or "matmul" in node.op:
        return node.outputs[0].size * node.inputs[0].shape[-1]
    return 0


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
