"""Checks the wiring of a graph: typed inputs and outputs, unique names, order, no cycles."""

from __future__ import annotations

import onnx

from edgeconv.errors import ModelError
from edgeconv.importer.check_tensors import check_element_type, check_tensor
from edgeconv.importer.limits import element_count, node_label, quoted, subgraphs


def check_graph(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> None:
    """Checks `graph` and its subgraphs, whose nesting must be limited already.

    Args:
        outer: values a subgraph may read from the graphs around it.

    Raises:
        ModelError: an input or output without type, a name used twice, a sparse or malformed
            weight, a value that nothing produces, nodes out of order or in a cycle.
    """
    nested = bool(outer)
    made = _declared(graph, nested)
    producers = _producers(graph, made)
    for index, node in enumerate(graph.node):
        label = node_label(node, index)
        for name in node.input:
            if name and name not in made and name not in outer:
                raise ModelError(_not_ready(graph, label, index, name, producers))
        for sub in subgraphs(node):
            check_graph(sub, outer | made)
        made |= {name for name in node.output if name}
    for output in graph.output:
        if not output.name:
            raise ModelError("a graph output has no name")
        what = f"graph output {quoted(output.name)}"
        if output.name not in made and output.name not in outer:
            raise ModelError(f"{what}: nothing produces it")
        check_value_type(what, output, strict=not nested)
    names = [output.name for output in graph.output]
    if len(set(names)) < len(names):
        raise ModelError(f"graph output {quoted(_repeated(names))} is listed twice")


def check_value_type(what: str, info: onnx.ValueInfoProto, *, strict: bool) -> None:
    """Checks a declared type: a tensor of known element type with sizes in range.

    Args:
        strict: whether type must be declared at all.

    Raises:
        ModelError: naming `what` and the reason.
    """
    kind = info.type.WhichOneof("value")
    if not strict and kind != "tensor_type":
        return
    if kind is None:
        raise ModelError(f"{what}: it has no type; export the model again with typed inputs")
    if kind != "tensor_type":
        raise ModelError(
            f"{what}: it is a {kind.removesuffix('_type')}; only tensors are supported"
        )
    tensor_type = info.type.tensor_type
    if strict or tensor_type.elem_type:
        check_element_type(what, tensor_type.elem_type)
    dims = [d.dim_value for d in tensor_type.shape.dim if d.HasField("dim_value")]
    if any(d < 0 for d in dims):
        raise ModelError(
            f"{what}: size {min(dims)} is negative; a dynamic dimension needs a name instead"
        )
    element_count([d for d in dims if d], what)


def _declared(graph: onnx.GraphProto, nested: bool) -> set[str]:
    """Names of inputs and weights, after checking both."""
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"weight {quoted(name)}: sparse weights are not supported; make it dense")
    weights: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        what = f"weight {quoted(tensor.name)}"
        if not tensor.name:
            raise ModelError("a weight has no name")
        if tensor.name in weights:
            raise ModelError(f"{what}: two weights have this name")
        check_tensor(what, tensor)
        weights[tensor.name] = tensor
    inputs: set[str] = set()
    for value in graph.input:
        if not value.name:
            raise ModelError("a graph input has no name")
        what = f"graph input {quoted(value.name)}"
        if value.name in inputs:
            raise ModelError(f"{what}: two inputs have this name")
        inputs.add(value.name)
        check_value_type(what, value, strict=not nested)
        if value.name in weights:
            _check_same(what, value, weights[value.name])
        elif not nested:
            _check_ranked(what, value)
    return inputs | set(weights)


def _check_ranked(what: str, value: onnx.ValueInfoProto) -> None:
    """Rank known, sizes positive; only lists, such as the axes of a reduction, may be empty."""
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape"):
        raise ModelError(
            f"{what}: its shape is missing; even with dynamic sizes, rank must be known"
        )
    dims = tensor_type.shape.dim
    if len(dims) > 1 and any(d.HasField("dim_value") and d.dim_value == 0 for d in dims):
        raise ModelError(f"{what}: a size is 0; sizes must be positive, or a name if dynamic")


def _check_same(what: str, value: onnx.ValueInfoProto, weight: onnx.TensorProto) -> None:
    """A weight that is an input too (usual before IR version 4) must agree with it."""
    declared = value.type.tensor_type
    if declared.elem_type not in (0, weight.data_type):
        raise ModelError(f"{what}: its element type differs from that of the weight of this name")
    if declared.HasField("shape"):
        dims = [d.dim_value if d.HasField("dim_value") else None for d in declared.shape.dim]
        same = len(dims) == len(weight.dims) and all(
            d is None or d == w for d, w in zip(dims, weight.dims, strict=True)
        )
        if not same:
            raise ModelError(
                f"{what}: declared with shape {dims}, but the weight of this name has "
                f"shape {list(weight.dims)}"
            )


def _producers(graph: onnx.GraphProto, made: set[str]) -> dict[str, int]:
    """Which node produces each value; a value has one producer only."""
    producers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        label = node_label(node, index)
        for name in filter(None, node.output):
            if name in made:
                raise ModelError(
                    f"{label}: it produces {quoted(name)}, which is already an input or a weight"
                )
            if name in producers:
                first = producers[name]
                raise ModelError(
                    f"{label}: it produces {quoted(name)}, which "
                    f"{node_label(graph.node[first], first)} already produces"
                )
            producers[name] = index
    return producers


def _not_ready(
    graph: onnx.GraphProto, label: str, index: int, name: str, producers: dict[str, int]
) -> str:
    """Why the node called `label` cannot read `name`: dangling, in a cycle, or out of order."""
    if name not in producers:
        return f"{label}: its input {quoted(name)} is dangling: nothing produces it"
    later = producers[name]
    other = node_label(graph.node[later], later)
    if _reaches(graph, producers, later, index):
        return (
            f"{label}: it is in a cycle: it reads {quoted(name)} from {other}, which depends on it"
        )
    return (
        f"{label}: it reads {quoted(name)} before {other} produces it; "
        "nodes must be sorted topologically"
    )


def _reads(node: onnx.NodeProto) -> set[str]:
    """Values a node reads, those of its subgraphs included."""
    names: set[str] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        names.update(current.input)
        for sub in subgraphs(current):
            names.update(output.name for output in sub.output)
            waiting += sub.node
    return names


def _reaches(graph: onnx.GraphProto, producers: dict[str, int], start: int, goal: int) -> bool:
    """Whether node `start` depends on node `goal`."""
    seen, waiting = {start}, [start]
    while waiting:
        current = waiting.pop()
        if current == goal:
            return True
        sources = {producers[n] for n in _reads(graph.node[current]) if n in producers} - seen
        seen |= sources
        waiting += sources
    return False


def _repeated(names: list[str]) -> str:
    return next(name for i, name in enumerate(names) if name in names[:i])
