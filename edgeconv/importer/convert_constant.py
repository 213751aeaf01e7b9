"""Operators whose outputs are known when the inputs that give shapes are."""

from __future__ import annotations

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.convert_elementwise import dtype_name


@converts("ConstantOfShape", "Range", "HannWindow", "HammingWindow", "BlackmanWindow")
def generated(node: NodeContext) -> Value:
    """Folded before this, when all inputs are constants."""
    for index in range(len(node.inputs)):
        node.array(index, "every input")
    raise node.refuse("onnx's reference evaluator cannot compute it")


@converts("EyeLike")
def eye_like(node: NodeContext) -> Value:
    """Ones on a diagonal."""
    x, code = node.input(0), node.attr("dtype")
    dtype = x.dtype if code is None else dtype_name(node, code)
    rows, columns = x.shape
    return node.constant(np.eye(rows, columns, int(node.attr("k", 0)), dtype=dtype))
