"""Checks each node against the schema of its operator: domain, inputs, outputs, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import onnx

from edgeconv.errors import ModelError
from edgeconv.importer.check_tensors import check_tensor
from edgeconv.importer.limits import MAX_RANK, MAX_SIZE, all_graphs, node_label, quoted

_TYPES = onnx.AttributeProto.AttributeType
_VALUE_FIELDS = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
}
_AT_LEAST_ONE = frozenset(
    {"strides", "dilations", "kernel_shape", "group", "num_outputs", "blocksize", "hidden_size"}
)
_AXES = frozenset({"axis", "axes", "perm", "batch_dims", "batch_axis", "time_axis"})


@lru_cache(maxsize=4096)
def _schema(operator: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def check_nodes(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> bool:
    """Checks every node of `graph` and its subgraphs.

    Args:
        opsets: version of each imported operator set; the default one is "".

    Returns:
        Whether every operator is known. Unknown ones of ONNX's own domains are left to the
        importer, which lists all of them.

    Raises:
        ModelError: a domain that is not imported or not ONNX's, or a node its schema forbids.
    """
    known = True
    for current in all_graphs(graph):
        for index, node in enumerate(current.node):
            label = node_label(node, index)
            if not node.op_type:
                raise ModelError(f"{label}: it has no operator type")
            domain = "" if node.domain == "ai.onnx" else node.domain
            if domain not in opsets:
                raise ModelError(f"{label}: the model does not import its domain {quoted(domain)}")
            if domain and not domain.startswith("ai.onnx."):
                raise ModelError(
                    f"{label}: custom domain {quoted(domain)} is unknown; "
                    "export the model with standard ONNX operators"
                )
            schema = _schema(node.op_type, opsets[domain], domain)
            _check_attributes(label, node, schema)
            if schema is None:
                known = False
            else:
                _check_arity(label, node, schema)
    return known


def _check_arity(label: str, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    for kind, names, least, most in (
        ("input", node.input, schema.min_input, schema.max_input),
        ("output", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            span = f"{least}" if least == most else f"{least} to {most}"
            span = f"at least {least}" if most >= MAX_SIZE else span
            raise ModelError(f"{label}: it has {len(names)} {kind}s, but needs {span}")
    if node.op_type == "Split":
        wanted = [a.i for a in node.attribute if a.name == "num_outputs"]
        if wanted and wanted[0] != len(node.output):
            raise ModelError(f"{label}: num_outputs is {wanted[0]}, not {len(node.output)}")
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for formal, name in zip(schema.inputs, node.input, strict=False):
        if formal.option == single and not name:
            raise ModelError(f"{label}: its input {formal.name} is required, but left out")


def _check_attributes(label: str, node: onnx.NodeProto, schema: onnx.defs.OpSchema | None) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        name = attribute.name
        what = f"{label}: attribute {quoted(name)}"
        if name in seen:
            raise ModelError(f"{what} is given twice")
        seen.add(name)
        if attribute.HasField("ref_attr_name"):
            raise ModelError(f"{what} refers to a function's attribute, outside of a function")
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ModelError(f"{what} is a sparse tensor, which is not supported; make it dense")
        _check_value(what, attribute)
        if schema is not None and name not in schema.attributes:
            raise ModelError(f"{what} is unknown in opset {schema.since_version}")
        if schema is not None:
            wanted = str(schema.attributes[name].type).rpartition(".")[2]
            if _TYPES.Name(attribute.type) != wanted:
                raise ModelError(f"{what} is {_TYPES.Name(attribute.type)}, but must be {wanted}")
    if schema is not None:
        for name, formal in schema.attributes.items():
            if formal.required and name not in seen:
                raise ModelError(f"{label}: attribute {quoted(name)} is required, but missing")


def _check_value(what: str, attribute: onnx.AttributeProto) -> None:
    """The value is of the type that the attribute says, and sizes are in range."""
    field = _VALUE_FIELDS.get(attribute.type)
    if field is None:
        raise ModelError(f"{what} has no type, or one that is not supported ({attribute.type})")
    filled = {value.name for value, _ in attribute.ListFields()} & set(_VALUE_FIELDS.values())
    if filled - {field} or (field in ("t", "g") and not filled):
        raise ModelError(f"{what} does not hold one value of its type")
    if field == "t":
        check_tensor(what, attribute.t)
    for tensor in attribute.tensors:
        check_tensor(what, tensor)
    values = [attribute.i] if field == "i" else list(attribute.ints)
    if attribute.name in _AT_LEAST_ONE:
        if any(v < 1 for v in values):
            raise ModelError(f"{what} is {min(values)}; it must be at least 1")
        if any(v > MAX_SIZE for v in values):
            raise ModelError(f"{what} is too big: {max(values)}, the limit is {MAX_SIZE}")
    if attribute.name in _AXES:
        least = 0 if attribute.name == "batch_dims" else -MAX_RANK
        if any(not least <= v <= MAX_RANK for v in values):
            raise ModelError(f"{what} is out of range: {values}")
    if attribute.name in ("pads", "output_padding", "output_shape") and any(
        abs(v) > MAX_SIZE for v in values
    ):
        raise ModelError(f"{what} is too big, the limit is {MAX_SIZE}")
