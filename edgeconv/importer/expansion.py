"""Operators that ONNX itself defines by a function of simpler ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgeconv.graph.ir import Value


@dataclass(frozen=True)
class Body:
    """A function's nodes, with attributes filled in and absent inputs removed."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[onnx.NodeProto]
    opset: int


def _schema(node: onnx.NodeProto, opset: int) -> Any:
    """ONNX's description of the node's operator, or None. Its type stubs lack half of it."""
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def is_function(node: onnx.NodeProto, opset: int) -> bool:
    """True if ONNX defines the node's operator by a function."""
    schema = _schema(node, opset)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def function_body(node: onnx.NodeProto, opset: int, inputs: Sequence[Value | None]) -> Body | None:
    """The function that defines the node, or None if there is none for this opset."""
    schema = _schema(node, opset)
    if schema is None:
        return None
    function = onnx.FunctionProto()
    if schema.has_function:
        version = _version(schema.function_opset_versions, opset)
        if version is None:
            return None
        function.ParseFromString(schema.get_function_with_opset_version(version))
    elif schema.has_context_dependent_function:
        version = _version(schema.context_dependent_function_opset_versions, opset)
        if version is None:
            return None
        types = [_type(v).SerializeToString() for v in inputs]
        text = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
        function.ParseFromString(text)
    else:
        return None
    attributes = {name: a.default_value for name, a in schema.attributes.items()}
    attributes.update({a.name: a for a in node.attribute})
    absent = {n for i, n in enumerate(function.input) if i >= len(inputs) or inputs[i] is None}
    nodes = [_bound(n, attributes, absent) for n in function.node]
    imports = {o.domain: o.version for o in function.opset_import}
    return Body(list(function.input), list(function.output), nodes, imports.get("", opset))


def _version(versions: Sequence[int], opset: int) -> int | None:
    """The newest definition that does not use operators newer than `opset`, else the oldest."""
    fitting = [v for v in versions if v <= opset]
    return max(fitting) if fitting else min(versions, default=None)


def _type(value: Value | None) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return onnx.helper.make_tensor_type_proto(code, value.shape)


def _bound(
    node: onnx.NodeProto, attributes: dict[str, onnx.AttributeProto], absent: set[str]
) -> onnx.NodeProto:
    """A copy whose attributes are values instead of references to the function's."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("attribute")
    copy.name = ""
    for index, name in enumerate(copy.input):
        if name in absent:
            copy.input[index] = ""
    for attribute in node.attribute:
        bound = onnx.AttributeProto()
        if attribute.ref_attr_name:
            given = attributes.get(attribute.ref_attr_name)
            if given is None or not given.name:
                continue
            bound.CopyFrom(given)
            bound.name = attribute.name
        else:
            bound.CopyFrom(attribute)
            if bound.HasField("g"):
                inner = [_bound(n, attributes, absent) for n in bound.g.node]
                del bound.g.node[:]
                bound.g.node.extend(inner)
        copy.attribute.append(bound)
    return copy
