"""Operators that cut, join and pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.convert_shape import normalised
from edgeconv.operators.registry import ShapeError


def cut(
    node: NodeContext,
    x: Value,
    begin: Sequence[int],
    size: Sequence[int],
    step: Sequence[int] | None = None,
) -> Value:
    """A part of x; x itself if it is all of it, a constant if it is empty."""
    step = tuple(step or (1,) * len(size))
    size, begin = tuple(size), tuple(begin)
    if 0 in size:
        return node.constant(np.zeros(size, x.dtype))
    if size == x.shape and all(s == 1 or d == 1 for s, d in zip(step, size, strict=True)):
        return x
    step = tuple(1 if d == 1 else s for s, d in zip(step, size, strict=True))
    return node.emit("slice", [x], begin=begin, size=size, step=step)


@converts("Slice")
def slice_(node: NodeContext) -> Value:
    """Starts, ends, axes and steps: attributes up to opset 9, inputs from 10 on."""
    x = node.input(0)
    rank = len(x.shape)
    if node.opset < 10:
        starts, ends = list(node.attr("starts")), list(node.attr("ends"))
        axes = list(node.attr("axes") or range(len(starts)))
        steps = [1] * len(starts)
    else:
        starts = [int(v) for v in node.array(1, "the starts").reshape(-1)]
        ends = [int(v) for v in node.array(2, "the ends").reshape(-1)]
        given = node.optional_array(3, "the axes")
        axes = list(range(len(starts))) if given is None else [int(a) for a in given]
        given = node.optional_array(4, "the steps")
        steps = [1] * len(starts) if given is None else [int(s) for s in given]
    begin, size, step = [0] * rank, list(x.shape), [1] * rank
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        if stride == 0:
            raise ShapeError("a step of 0")
        a = normalised(axis, rank)
        taken = range(x.shape[a])[slice(start, end, stride)]
        begin[a], size[a], step[a] = taken.start, len(taken), taken.step
    return cut(node, x, begin, size, step)


@converts("Split")
def split(node: NodeContext) -> list[Value]:
    """Parts of given sizes, or equal ones: the last may be smaller from opset 18 on."""
    x = node.input(0)
    axis = normalised(int(node.attr("axis", 0)), len(x.shape))
    given = node.optional_array(1, "the sizes") if node.opset >= 13 else node.attr("split")
    total = x.shape[axis]
    if given is not None:
        sizes = [int(s) for s in np.asarray(given).reshape(-1)]
    else:
        count = int(node.attr("num_outputs") or len(node.proto.output))
        part = -(-total // count)
        sizes = [min(part, total - i * part) for i in range(count)]
    if sum(sizes) != total or min(sizes) < 0:
        raise ShapeError(f"an axis of {total} does not split into {sizes}")
    parts = []
    for index, part in enumerate(sizes):
        begin, size = [0] * len(x.shape), list(x.shape)
        begin[axis], size[axis] = sum(sizes[:index]), part
        parts.append(cut(node, x, begin, size))
    return parts


@converts("Concat")
def concat(node: NodeContext) -> Value:
    """Joined along an axis; empty tensors vanish."""
    inputs = [node.input(i) for i in range(len(node.inputs))]
    axis = normalised(int(node.attr("axis", 1)), len(inputs[0].shape))
    parts = [v for v in inputs if v.size] or inputs[:1]
    return parts[0] if len(parts) == 1 else node.emit("concat", parts, axis=axis)


@converts("Pad")
def pad(node: NodeContext) -> Value:
    """Constant, reflected, edge or wrapped borders; negative pads cut."""
    x = node.input(0)
    rank = len(x.shape)
    value = 0.0
    if node.opset < 11:
        pads = [int(p) for p in node.attr("pads", node.attr("paddings"))]
        value = float(node.attr("value", 0.0))
    else:
        pads = [int(p) for p in node.array(1, "the pads").reshape(-1)]
        given = node.optional_array(2, "the pad value")
        if given is not None:
            value = given.reshape(-1)[0].item()
    axes = node.optional_array(3, "the axes") if node.opset >= 18 else None
    count = len(pads) // 2
    chosen = range(rank) if axes is None else [normalised(int(a), rank) for a in axes]
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(chosen):
        before[axis], after[axis] = pads[index], pads[index + count]
    mode = node.attr("mode", "constant")
    if mode == "constant":
        return constant_pad(node, x, before, after, value)
    for axis in range(rank):
        x = _mirrored(node, x, axis, before[axis], after[axis], mode)
    return x


def constant_pad(
    node: NodeContext,
    x: Value,
    before: Sequence[int],
    after: Sequence[int],
    value: float = 0,
) -> Value:
    """x with borders of `value`; negative pads cut."""
    begin = [max(-b, 0) for b in before]
    size = [d + min(b, 0) + min(a, 0) for d, b, a in zip(x.shape, before, after, strict=True)]
    x = cut(node, x, begin, [max(s, 0) for s in size])
    before, after = tuple(max(b, 0) for b in before), tuple(max(a, 0) for a in after)
    if not any((*before, *after)):
        return x
    if x.size == 0:
        shape = [d + b + a for d, b, a in zip(x.shape, before, after, strict=True)]
        return node.constant(np.full(shape, value, x.dtype))
    return node.emit("pad", [x], before=before, after=after, value=value)


def _mirrored(node: NodeContext, x: Value, axis: int, before: int, after: int, mode: str) -> Value:
    """Borders along one axis, by the index each element is read from."""
    if not before and not after:
        return x
    places = np.arange(x.shape[axis])[max(-before, 0) : x.shape[axis] - max(-after, 0)]
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise node.refuse(f"mode {mode}")
    index = np.pad(places, (max(before, 0), max(after, 0)), mode=modes[mode])  # type: ignore[call-overload]
    return node.emit("gather", [x, node.constant(index.astype(np.int32))], axis=axis)
