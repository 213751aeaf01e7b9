"""Runs a graph operator by operator, unscheduled: slow, and independent of passes and schedules."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import te

from edgeconv.graph.ir import Graph, Value
from edgeconv.onnx_backend import Runner
from edgeconv.operators import registry

Types = tuple[tuple[tuple[int, ...], str], ...]


@functools.lru_cache(maxsize=2048)
def _kernel(op: str, types: Types, attrs: tuple[tuple[str, Any], ...]) -> Any:
    inputs = [te.placeholder(s, d, name=f"x{i}") for i, (s, d) in enumerate(types)]
    outputs = registry.get(op)(*inputs, **dict(attrs))
    function = te.create_prim_func([*inputs, *outputs])
    return tvm.compile(function, target={"kind": "llvm"})


def run_graph(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name."""
    values: dict[Value, Any] = {}
    for value in graph.inputs:
        array = np.asarray(feeds[value.name])
        assert array.shape == value.shape, (value, array.shape)
        assert str(array.dtype) == value.dtype, (value, array.dtype)
        values[value] = _tensor(array)

    def operand(value: Value) -> Any:
        if value not in values:
            assert value.data is not None, value
            values[value] = _tensor(value.data)
        return values[value]

    for node in graph:
        kernel = _kernel(
            node.op,
            tuple((v.shape, v.dtype) for v in node.inputs),
            tuple(sorted(node.attrs.items())),
        )
        outputs = [tvm.runtime.empty(v.shape, v.dtype) for v in node.outputs]
        kernel(*(operand(v) for v in node.inputs), *outputs)
        values.update(zip(node.outputs, outputs, strict=True))
    return {v.name: operand(v).numpy() for v in graph.outputs}


def _tensor(array: np.ndarray) -> Any:
    return tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape))


def executor(graph: Graph) -> Runner:
    """An executor for `EdgeconvBackend`."""
    return functools.partial(run_graph, graph)
