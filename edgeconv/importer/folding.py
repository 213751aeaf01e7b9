"""Computes at import what depends on constants only."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from edgeconv.errors import ModelError

logger = logging.getLogger(__name__)

MAX_ELEMENTS = 2**29
"""Elements of one folded result, 2 GiB in float32."""

_RANDOM = (
    *("Bernoulli", "Dropout", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
)
# these have converters that take constants as well
_NOT_HERE = ("BatchNormalization", "If", "Loop", "Scan", "SequenceMap")
_DTYPES = (
    *("bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


def supported_dtype(dtype: str) -> bool:
    """True for the element types edgeconv computes with."""
    return dtype in _DTYPES


def fold(
    node: onnx.NodeProto, label: str, opset: int, inputs: Sequence[np.ndarray | None]
) -> list[np.ndarray] | None:
    """The outputs of a node whose inputs are all known, or None if it is left to its converter.

    Raises:
        ModelError: the result would have more than `MAX_ELEMENTS` elements.
    """
    if node.op_type in _RANDOM or node.op_type in _NOT_HERE or node.domain not in ("", "ai.onnx"):
        return None
    size = _result_size(node, inputs)
    if size > MAX_ELEMENTS:
        raise ModelError(
            f"node '{label}' ({node.op_type}): its output has {size} elements, a constant has at "
            f"most {MAX_ELEMENTS}"
        )
    if node.op_type == "ConstantOfShape":
        return [_constant_of_shape(node, inputs[0])]
    try:
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        names = [name for name in node.input if name]
        known = [data for data in inputs if data is not None]
        results = evaluator.run(None, dict(zip(names, known, strict=False)))
    except Exception as error:  # the evaluator is not complete; converters take constants too
        logger.debug("%s: not folded: %s", label, error)
        return None
    arrays = [np.asarray(r) for r in results if not isinstance(r, (list, dict)) and r is not None]
    if len(arrays) != len(results) or not all(supported_dtype(str(a.dtype)) for a in arrays):
        return None
    return arrays


def _constant_of_shape(node: onnx.NodeProto, shape: np.ndarray | None) -> np.ndarray:
    value = np.zeros(1, np.float32)
    for attribute in node.attribute:
        if attribute.name == "value":
            value = onnx.numpy_helper.to_array(attribute.t)
    return np.full([int(d) for d in shape] if shape is not None else [], value.reshape(-1)[0])


def _result_size(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> int:
    """How many elements the output will have, for operators that can blow up; else 0."""
    arrays = [a for a in inputs if a is not None]
    if node.op_type == "ConstantOfShape" and arrays:
        return math.prod(int(d) for d in arrays[0])
    if node.op_type in ("Expand", "Tile") and len(arrays) == 2:
        factor = math.prod(max(int(d), 1) for d in arrays[1])
        return factor if node.op_type == "Expand" else factor * arrays[0].size
    if node.op_type == "Range" and len(arrays) == 3:
        start, limit, delta = (float(a.reshape(-1)[0]) for a in arrays)
        return int(abs((limit - start) / delta)) if delta else 0
    if node.op_type in ("Resize", "Upsample") and len(arrays) > 1:
        scale = float(np.prod(arrays[-1].astype(np.float64)))
        return int(scale if arrays[-1].dtype.kind == "i" else scale * arrays[0].size)
    if node.op_type == "Pad" and len(arrays) > 1:
        added = int(np.abs(arrays[1].astype(np.float64)).sum())
        return math.prod(d + added for d in arrays[0].shape) if added > 2**16 else 0
    if node.op_type == "OneHot" and len(arrays) == 3:
        return int(arrays[0].size * abs(float(arrays[1].reshape(-1)[0])))
    return 0
