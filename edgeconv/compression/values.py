"""What the values of a model are, and what they hold on given inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgeconv import api
from edgeconv.graph.ir import Value
from edgeconv.importer import import_model
from edgeconv.importer.limits import all_graphs
from edgeconv.runtime import Model

Shapes = Mapping[str, Sequence[int]] | None
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Facts:
    """Every value of a graph that something reads; `data` is set where it is known already."""

    values: dict[str, Value]
    inputs: tuple[Value, ...]

    def array(self, name: str) -> np.ndarray | None:
        """A constant's elements, or None."""
        return self.values[name].data if name in self.values else None


def facts(model: onnx.ModelProto, shapes: Shapes) -> Facts:
    """Shapes, types and constants, as the importer finds them.

    Raises:
        ModelError, UnsupportedOperator, InputError: as of `import_model`.
    """
    graph = model.graph
    read = {name for node in graph.node for name in node.input if name}
    produced = [name for node in graph.node for name in node.output if name in read]
    untyped = map(onnx.helper.make_empty_tensor_value_info, produced)
    imported = import_model(with_outputs(model, untyped), shapes)
    values = {v.name: v for v in (*imported.inputs, *imported.outputs)}
    for tensor in graph.initializer:
        data = onnx.numpy_helper.to_array(tensor)
        values[tensor.name] = Value(tensor.name, data.shape, str(data.dtype), data)
    return Facts(values, tuple(imported.inputs))


def with_outputs(model: onnx.ModelProto, infos: Iterable[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The model with more outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(info for info in infos if info.name not in present)
    return copy


def info(value: Value) -> onnx.ValueInfoProto:
    """A value's name, type and shape, for a graph's inputs and outputs."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return onnx.helper.make_tensor_value_info(value.name, kind, value.shape)


def shape_outputs(model: onnx.ModelProto, known: Facts) -> None:
    """Give outputs without a shape, which ONNX's checker refuses, open dimensions; in place."""
    for output in model.graph.output:
        tensor = output.type.tensor_type
        if not tensor.HasField("shape") and output.name in known.values:
            tensor.elem_type = info(known.values[output.name]).type.tensor_type.elem_type
            tensor.shape.SetInParent()
            for _ in known.values[output.name].shape:
                tensor.shape.dim.add()


def compiled(model: onnx.ModelProto, values: Iterable[Value], shapes: Shapes) -> Model:
    """The model, compiled for this machine and one thread, with these values as outputs too."""
    return api.compile(with_outputs(model, map(info, values)), threads=1, input_shapes=shapes)


def names_of(graph: onnx.GraphProto) -> set[str]:
    """Every name of a value in a graph and its subgraphs."""
    found: set[str] = set()
    for current in all_graphs(graph):
        found.update(t.name for t in current.initializer)
        found.update(t.values.name for t in current.sparse_initializer)
        found.update(v.name for v in (*current.input, *current.output))
        for node in current.node:
            found.update(node.input, node.output)
    return found


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Values a node reads, those that its subgraphs take from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for sub in (attribute.g, *attribute.graphs):
            for current in all_graphs(sub):
                for inner in current.node:
                    yield from (name for name in inner.input if name)
                yield from (output.name for output in current.output)
