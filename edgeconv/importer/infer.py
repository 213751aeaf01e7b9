"""Learns the shapes inside a model with ONNX's own checker and shape inference.

Both are native code, so this comes after edgeconv's own checks, on a copy without the big weights.
"""

from __future__ import annotations

import re

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from edgeconv.errors import ModelError
from edgeconv.importer.check_layers import known_shapes
from edgeconv.importer.limits import MAX_SIZE, Shape, all_graphs, element_count, node_label

_SMALL = 1024
"""Weights of up to this many elements are kept: shape inference reads shapes from them."""

_SIZE_INPUTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1,),
    "Reshape": (1,),
    "Resize": (3,),
    "Split": (1,),
    "Tile": (1,),
}
"""Inputs that hold sizes, whose sums or products could overflow in native code."""

MAX_CONSTANT = 2**29
"""Elements of a ConstantOfShape, 2 GiB in float32: it is folded into the compiled model."""


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A skeleton of `model` whose `value_info` holds all shapes that can be known.

    Raises:
        ModelError: ONNX's checker or shape inference finds a fault, or a value is too big.
    """
    _check_sizes_given(model.graph)
    skeleton = _skeleton(model)
    try:
        onnx.checker.check_model(skeleton)
        inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the model is not valid ONNX: {_one_sentence(str(error))}") from None
    except (EncodeError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"the model cannot be analysed: {_one_sentence(str(error))}") from None
    _check_results(inferred.graph)
    return inferred


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with big weights as typed inputs, and without the exporter's value_info.

    Stale value_info is common in edited models and says nothing that is not inferred. Outputs
    without a shape, which ONNX Runtime takes but ONNX's checker does not, are inferred as well.
    """
    graph, big = model.graph, set()
    copy = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    copy.opset_import.extend(model.opset_import)
    copy.graph.name = "skeleton"
    copy.graph.node.extend(graph.node)
    copy.graph.output.extend(o for o in graph.output if o.type.tensor_type.HasField("shape"))
    for weight in graph.initializer:
        if len(weight.dims) < 2 and element_count(weight.dims, weight.name) <= _SMALL:
            copy.graph.initializer.append(weight)
        else:
            info = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            copy.graph.input.append(info)
        big.add(weight.name)
    copy.graph.input.extend(value for value in graph.input if value.name not in big)
    for current in all_graphs(copy.graph):
        current.ClearField("value_info")
    return copy


def _check_sizes_given(graph: onnx.GraphProto) -> None:
    for current in all_graphs(graph):
        constants = {w.name: w for w in current.initializer}
        for node in current.node:
            if node.op_type == "Constant" and node.output and node.attribute:
                constants[node.output[0]] = node.attribute[0].t
        for index, node in enumerate(current.node):
            for position in _SIZE_INPUTS.get(node.op_type, ()):
                name = node.input[position] if position < len(node.input) else ""
                tensor = constants.get(name)
                if tensor is None or tensor.data_type != onnx.TensorProto.INT64:
                    continue
                values = onnx.numpy_helper.to_array(tensor)
                if values.size and int(abs(values.astype(object)).max()) > MAX_SIZE:
                    raise ModelError(
                        f"{node_label(node, index)}: its input {position} asks for a size above "
                        f"the limit of {MAX_SIZE}"
                    )


def _check_results(graph: onnx.GraphProto) -> None:
    """Every inferred shape is in range."""
    for current in all_graphs(graph):
        shapes: dict[str, Shape] = known_shapes(current, inferred=True)
        for index, node in enumerate(current.node):
            label = node_label(node, index)
            for name in node.output:
                sizes = [size for size in shapes.get(name, ()) if size is not None]
                count = element_count(sizes, f"{label}: its output")
                if node.op_type == "ConstantOfShape" and count > MAX_CONSTANT:
                    raise ModelError(
                        f"{label}: its output has {count} elements, a constant has at most "
                        f"{MAX_CONSTANT}"
                    )


def _one_sentence(text: str) -> str:
    """The message of a native exception without repeated prefixes, line breaks or addresses."""
    text = re.sub(r"\[\w+Error\]\s*", "", text)
    text = re.sub(r"\s*==> Context:\s*", " in ", text)
    text = re.sub(r"^Inference error\(s\):\s*", "", text.strip())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines)[:400] or "no reason given"
