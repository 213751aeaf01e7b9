"""Resize and Upsample: one axis at a time, with tables of neighbours and weights made here.

Coordinates, neighbours and weights follow onnx.reference's `op_resize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.convert_shape import normalised
from edgeconv.operators.registry import ShapeError

Coefficients = Callable[[float, float], np.ndarray]


@dataclass(frozen=True)
class _Settings:
    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized."""

    axis: int
    size: int
    out: int
    scale: float
    roi: tuple[float, float]


@converts("Upsample")
def upsample(node: NodeContext) -> Value:
    """The predecessor of Resize: scales only, coordinates divided by them."""
    x = node.input(0)
    scales = node.attr("scales") if node.opset < 9 else node.array(1, "the scales")
    if scales is None:  # opset 1
        scales = [1.0, 1.0, node.attr("height_scale"), node.attr("width_scale")]
    return _resized(node, x, _from_scales(x, range(len(x.shape)), scales, None), _old(node))


def _old(node: NodeContext) -> _Settings:
    mode = {"bilinear": "linear"}.get(node.attr("mode", "nearest"), node.attr("mode", "nearest"))
    return _Settings(mode, "asymmetric", "floor", -0.75, False, False, 0.0)


@converts("Resize")
def resize(node: NodeContext) -> Value:
    """Scales only in opset 10; scales or sizes, and all the modes, from 11 on."""
    x = node.input(0)
    if node.opset < 11:
        scales = node.array(1, "the scales")
        return _resized(node, x, _from_scales(x, range(len(x.shape)), scales, None), _old(node))
    settings = _Settings(
        mode=node.attr("mode", "nearest"),
        coordinates=node.attr("coordinate_transformation_mode", "half_pixel"),
        nearest=node.attr("nearest_mode", "round_prefer_floor"),
        cubic_a=float(node.attr("cubic_coeff_a", -0.75)),
        exclude_outside=bool(node.attr("exclude_outside", 0)),
        antialias=bool(node.attr("antialias", 0)),
        extrapolation=float(node.attr("extrapolation_value", 0.0)),
    )
    given = node.attr("axes") if node.opset >= 18 else None
    axes = [normalised(int(a), len(x.shape)) for a in given or range(len(x.shape))]
    roi = None
    if settings.coordinates == "tf_crop_and_resize":
        roi = node.array(1, "the region of interest").reshape(2, len(axes))
    factors = node.optional_array(2, "the scales")
    sizes = node.optional_array(3, "the sizes")
    if sizes is not None and sizes.size:
        policy = node.attr("keep_aspect_ratio_policy", "stretch")
        plans = _from_sizes(x, axes, [int(s) for s in sizes], policy, roi)
    elif factors is not None and factors.size:
        plans = _from_scales(x, axes, factors, roi)
    else:
        raise ShapeError("neither scales nor sizes are given")
    return _resized(node, x, plans, settings)


def _region(roi: np.ndarray | None, index: int) -> tuple[float, float]:
    return (0.0, 1.0) if roi is None else (float(roi[0, index]), float(roi[1, index]))


def _from_scales(
    x: Value, axes: Sequence[int], scales: Sequence[float] | np.ndarray, roi: np.ndarray | None
) -> list[_Axis]:
    if len(axes) != len(scales):
        raise ShapeError(f"{len(scales)} scales for {len(axes)} axes")
    return [
        _Axis(a, x.shape[a], int(float(s) * x.shape[a]), float(s), _region(roi, i))
        for i, (a, s) in enumerate(zip(axes, scales, strict=True))
    ]


def _from_sizes(
    x: Value, axes: Sequence[int], sizes: Sequence[int], policy: str, roi: np.ndarray | None
) -> list[_Axis]:
    if len(axes) != len(sizes):
        raise ShapeError(f"{len(sizes)} sizes for {len(axes)} axes")
    scales = [s / x.shape[a] for a, s in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(axes)
        sizes = [int(scale * x.shape[a] + 0.5) for a in axes]
    return [
        _Axis(a, x.shape[a], o, s, _region(roi, i))
        for i, (a, o, s) in enumerate(zip(axes, sizes, scales, strict=True))
    ]


def _resized(node: NodeContext, x: Value, plans: Sequence[_Axis], settings: _Settings) -> Value:
    dtype = x.dtype
    if min(p.out for p in plans) < 1:
        raise ShapeError(f"the output would have sizes {[p.out for p in plans]}")
    if settings.mode != "nearest" and dtype != "float64":
        x = node.cast(x, "float32")
    # shrinking axes first leaves less to do for the others; columns before rows, which take longer
    for plan in sorted(plans, key=lambda p: (p.out / p.size, -p.axis)):
        if plan.out == plan.size and plan.scale == 1.0 and plan.roi == (0.0, 1.0):
            continue
        places = _places(plan, settings.coordinates)
        if settings.mode == "nearest":
            index = _nearest(places, settings.nearest).clip(0, plan.size - 1)
            if plan.size > 1 or plan.out > 1:
                table = node.constant(index.astype(np.int32))
                x = node.emit("gather", [x, table], axis=plan.axis)
        else:
            neighbours, weights = _table(plan, places, settings)
            operands = [node.constant(neighbours), node.constant(weights.astype(x.dtype))]
            x = node.emit("interpolate", [x, *operands], axis=plan.axis)
        if settings.coordinates == "tf_crop_and_resize":
            x = _extrapolated(node, x, plan, places, settings.extrapolation)
    if x.dtype != dtype and "float" not in dtype:
        x = node.emit("round", [x])
    return node.cast(x, dtype)


def _extrapolated(
    node: NodeContext, x: Value, plan: _Axis, places: np.ndarray, value: float
) -> Value:
    outside = (places < 0) | (places > plan.size - 1)
    if not outside.any():
        return x
    column = [1] * len(x.shape)
    column[plan.axis] = plan.out
    mask = node.constant(outside.reshape(column))
    return node.emit("where", [mask, node.like(x, value), x])


def _places(plan: _Axis, mode: str) -> np.ndarray:
    """Where each output element lies in the input.

    Rounded to float32 at each step, as ONNX Runtime does: whether a place lies halfway decides
    which element is nearest.
    """
    y, scale = np.arange(plan.out, dtype=np.float32), np.float32(plan.scale)
    width = plan.scale * plan.size
    if mode == "align_corners":
        return y * 0 if width == 1 else y * (plan.size - 1) / (width - 1)
    if mode == "asymmetric":
        return y / scale
    if mode == "tf_crop_and_resize":
        start, end = plan.roi
        if width == 1:
            offset = y * 0 + (end - start) * (plan.size - 1) / 2
        else:
            offset = y * (end - start) * (plan.size - 1) / (width - 1)
        return offset + start * (plan.size - 1)
    half = (y + np.float32(0.5)) / scale - np.float32(0.5)
    if mode == "pytorch_half_pixel":
        return y * 0 - 0.5 if width == 1 else half
    if mode == "tf_half_pixel_for_nn":  # opset 11 and 12
        return half + 0.5
    if mode == "half_pixel_symmetric":
        return half + plan.size / 2 * (1 - plan.out / width)
    if mode == "half_pixel":
        return half
    raise ShapeError(f"unknown coordinate_transformation_mode '{mode}'")


def _nearest(places: np.ndarray, mode: str) -> np.ndarray:
    if mode == "floor":
        return np.floor(places)
    if mode == "ceil":
        return np.ceil(places)
    if mode == "round_prefer_ceil":
        return np.floor(places + 0.5)
    return np.ceil(places - 0.5)


def _table(plan: _Axis, places: np.ndarray, settings: _Settings) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (int32) and weights (float64), both [outputs, taps]."""
    scale = min(plan.scale, 1.0) if settings.antialias else 1.0
    reach = 1 if settings.mode == "linear" else 2
    if settings.mode not in ("linear", "cubic"):
        raise ShapeError(f"unknown mode '{settings.mode}'")
    first = math.floor(-reach / scale) + 1
    offsets = np.arange(first, 2 - first)
    base = np.ceil(places) - 1  # an exact place counts as the right neighbour
    ratios = places - base
    distance = (offsets[None, :] - ratios[:, None]) * scale
    weights = _linear(distance) if settings.mode == "linear" else _cubic(distance, settings.cubic_a)
    neighbours = base[:, None] + offsets[None, :]
    if settings.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    if settings.exclude_outside:
        weights = np.where((neighbours < 0) | (neighbours >= plan.size), 0.0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    used = np.flatnonzero(np.abs(weights).max(axis=0))
    low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
    inside = neighbours.clip(0, plan.size - 1).astype(np.int32)
    return inside[:, low:high], weights[:, low:high]


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(distance), 0, 1)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel of two pixels' reach."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@converts("GridSample")
def grid_sample(node: NodeContext) -> Value:
    """Samples at free places; modes got new names in opset 20."""
    mode = node.attr("mode", "linear")
    return node.emit(
        "grid_sample",
        [node.input(0), node.input(1)],
        mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode),
        padding_mode=node.attr("padding_mode", "zeros"),
        align_corners=bool(node.attr("align_corners", 0)),
    )
