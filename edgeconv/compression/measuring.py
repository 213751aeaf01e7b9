"""Inputs to measure on, and how far outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from edgeconv.artifact import TensorSpec
from edgeconv.compression.values import Arrays, Facts, Shapes, compiled
from edgeconv.errors import InputError
from edgeconv.graph.ir import Value
from edgeconv.runtime.model import random_arrays

NOISE_SAMPLES = 4


def noise(facts: Facts) -> list[Arrays]:
    """Seeded random inputs, as `edgeconv run` takes them."""
    specs = _specs(facts)
    return [random_arrays(specs, seed) for seed in range(NOISE_SAMPLES)]


def samples(facts: Facts, given: Mapping[str, Any]) -> list[Arrays]:
    """Calibration data cut into inputs of the network's batch size.

    Raises:
        InputError: names, shapes, types or numbers of samples don't fit, or a value is not finite.
    """
    specs = _specs(facts)
    wanted = "; ".join(map(str, specs))
    names = {s.name for s in specs}
    if set(given) != names:
        missing = ", ".join(sorted(names - set(given)))
        unknown = ", ".join(sorted(set(map(str, given)) - names))
        faults = [f"missing: {missing}"] * bool(missing) + [f"unknown: {unknown}"] * bool(unknown)
        raise InputError(
            f"the calibration data does not fit ({'; '.join(faults)}); the model wants {wanted}"
        )
    counts = {}
    arrays = {}
    for spec in specs:
        array = np.asarray(given[spec.name])
        counts[spec.name] = _count(array, spec)
        arrays[spec.name] = array
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InputError(f"the calibration data has unequal numbers of batches: {shown}")
    (count,) = set(counts.values())
    return [{s.name: _batch(arrays[s.name], s, number) for s in specs} for number in range(count)]


def _count(array: np.ndarray, spec: TensorSpec) -> int:
    """Batches in one array."""
    if array.dtype != spec.dtype:
        raise InputError(
            f"calibration data '{spec.name}' is {array.dtype}, the model wants {spec.dtype}"
        )
    batch = spec.shape[0] if spec.shape else 1
    fits = array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:]
    if not fits or not spec.shape or len(array) == 0 or len(array) % max(batch, 1):
        raise InputError(
            f"calibration data '{spec.name}' has shape {list(array.shape)}, the model wants "
            f"{list(spec.shape)}, any multiple of the first"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"calibration data '{spec.name}' holds infinities or NaN")
    return len(array) // batch


def _batch(array: np.ndarray, spec: TensorSpec, number: int) -> np.ndarray:
    size = spec.shape[0]
    return np.ascontiguousarray(array[number * size : (number + 1) * size])


def _specs(facts: Facts) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(v.name, v.shape, v.dtype) for v in facts.inputs)


def errors(
    original: onnx.ModelProto,
    changed: onnx.ModelProto,
    values: Sequence[Value],
    shapes: Shapes,
    inputs: Sequence[Arrays],
) -> dict[str, float]:
    """‖difference‖ / ‖value‖ over all inputs, of these values and of the model's float outputs."""
    first, second = compiled(original, values, shapes), compiled(changed, values, shapes)
    kinds = {s.name: np.dtype(s.dtype).kind for s in first.outputs}
    size = {name: 0.0 for name, kind in kinds.items() if kind == "f"}
    apart = dict(size)
    for sample in inputs:
        wanted, found = first.run(sample), second.run(sample)
        for name in size:
            exact = wanted[name].astype(np.float64)
            size[name] += float(np.square(exact).sum())
            apart[name] += float(np.square(found[name] - exact).sum())
    return {name: _relative(apart[name], size[name]) for name in size}


def _relative(apart: float, size: float) -> float:
    if apart == 0:
        return 0.0
    ratio = np.sqrt(apart / size) if size > 0 else np.inf
    return float(ratio) if np.isfinite(ratio) else float("inf")
