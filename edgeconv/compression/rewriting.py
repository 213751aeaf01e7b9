"""Puts depthwise and pointwise convolutions in the place of dense ones, in ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeconv.compression.dense_convs import DenseConv
from edgeconv.compression.values import names_of
from edgeconv.importer.limits import all_graphs


@dataclass(frozen=True)
class Factors:
    """What takes the place of a dense convolution.

    Attributes:
        filters: depthwise, [C, r, T].
        mixing: pointwise, [K, C, r].
        bias: [K], or None.
    """

    filters: np.ndarray
    mixing: np.ndarray
    bias: np.ndarray | None


def rewrite(model: onnx.ModelProto, factors: Mapping[DenseConv, Factors]) -> onnx.ModelProto:
    """A copy of the model with these convolutions decomposed.

    The pointwise convolution keeps node name and output of the dense one; new names are unique.
    Weights that nothing reads any more are dropped.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    names = _Names({*names_of(graph), *(n.name for g in all_graphs(graph) for n in g.node)})
    places = {conv.node: conv for conv in factors}
    nodes: list[onnx.NodeProto] = []
    freed: set[str] = set()
    added: list[onnx.TensorProto] = []
    for index, node in enumerate(model.graph.node):
        if index not in places:
            nodes.append(node)
            continue
        conv = places[index]
        freed.update(node.input[1:])
        pair, tensors = _pair(node, conv, factors[conv], names)
        nodes += pair
        added += tensors
    del graph.node[:]
    graph.node.extend(nodes)
    _drop(graph, freed)
    graph.initializer.extend(added)
    if result.ir_version < 4:  # before version 4 every initializer must also be an input
        graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in added
        )
    return result


class _Names:
    """Names that are taken."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def fresh(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate


def _pair(
    node: onnx.NodeProto, conv: DenseConv, factors: Factors, names: _Names
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Depthwise and pointwise nodes, and their weights."""
    outputs, channels = conv.weight.shape[:2]
    rank, kernel = factors.filters.shape[1], conv.weight.shape[2:]
    dtype = conv.weight.dtype
    base = node.input[1]
    arrays = [
        ("depthwise", factors.filters.reshape(channels * rank, 1, *kernel)),
        ("pointwise", factors.mixing.reshape(outputs, channels * rank, *(1,) * len(kernel))),
    ]
    if factors.bias is not None:
        arrays.append(("bias", factors.bias))
    tensors = [
        numpy_helper.from_array(
            np.ascontiguousarray(array.astype(dtype)), names.fresh(f"{base}.{w}")
        )
        for w, array in arrays
    ]
    middle = names.fresh(f"{node.output[0]}.depthwise")
    depthwise = onnx.NodeProto()
    depthwise.CopyFrom(node)
    depthwise.name = names.fresh(f"{node.name or node.output[0]}.depthwise")
    depthwise.input[:] = [node.input[0], tensors[0].name]
    depthwise.output[:] = [middle]
    kept = [a for a in node.attribute if a.name not in ("group", "kernel_shape")]
    del depthwise.attribute[:]
    depthwise.attribute.extend(kept)
    depthwise.attribute.append(helper.make_attribute("group", channels))
    depthwise.attribute.append(helper.make_attribute("kernel_shape", list(kernel)))
    pointwise = onnx.NodeProto()
    pointwise.CopyFrom(node)
    pointwise.input[:] = [middle, *(t.name for t in tensors[1:])]
    del pointwise.attribute[:]
    pointwise.attribute.append(helper.make_attribute("kernel_shape", [1] * len(kernel)))
    return [depthwise, pointwise], tensors


def _drop(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove those of the named weights that nothing reads."""
    used: set[str] = set()
    for current in all_graphs(graph):
        used.update(name for node in current.node for name in node.input)
        used.update(output.name for output in current.output)
    dead = names - used
    nodes = [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in dead]
    weights = [t for t in graph.initializer if t.name not in dead]
    inputs = [i for i in graph.input if i.name not in dead]
    for field, items in (
        (graph.node, nodes),
        (graph.initializer, weights),
        (graph.input, inputs),
    ):
        if len(items) < len(field):
            kept = list(items)
            del field[:]
            field.extend(kept)
