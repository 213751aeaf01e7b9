"""One-node models, run through importer and reference executor, and through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgeconv.graph.ir import Graph
from edgeconv.importer import import_model, read_model
from tests.reference import run_graph


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int,
    outputs: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """A model with inputs typed like the arrays."""
    code = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, code(a.dtype), a.shape) for n, a in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs or nodes[-1].output],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_operatorsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def single(
    op: str,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int,
    outputs: int = 1,
    order: Sequence[str] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of one node; `order` lists its inputs, "" for an absent one."""
    names = [f"y{i}" for i in range(outputs)]
    operands = list(order or [*inputs, *(constants or {})])
    node = helper.make_node(op, operands, names, name="node", **attrs)
    return model_of([node], inputs, constants, opset=opset)


def ours(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the imported graph computes."""
    return run_graph(import_model(read_model(model)), inputs)


def theirs(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, unoptimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def agree(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], rtol: float = 1e-5
) -> dict[str, np.ndarray]:
    """Compare both, relative to each output's largest element; what ours computed."""
    found, expected = ours(model, inputs), theirs(model, inputs)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        size = float(np.max(np.abs(array), initial=1e-30)) if array.dtype != bool else 0
        np.testing.assert_allclose(found[name], array, rtol=rtol, atol=rtol * size)
    return found


def operators(model: onnx.ModelProto, **kwargs: Any) -> list[str]:
    """The operators of the imported graph."""
    graph: Graph = import_model(read_model(model), **kwargs)
    return [node.op for node in graph]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
