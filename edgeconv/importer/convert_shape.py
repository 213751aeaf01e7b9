"""Operators that change shape or order and keep the elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.operators.registry import ShapeError


@converts("Identity")
def identity(node: NodeContext) -> Value:
    """Nothing."""
    return node.input(0)


@converts("Dropout")
def dropout(node: NodeContext) -> list[Value]:
    """Nothing, outside of training; the mask is all ones."""
    x = node.input(0)
    training = node.opset >= 12 and node.optional_array(2, "training_mode")
    if training is not None and training is not False and bool(np.all(training)):
        ratio = node.optional_array(1, "the ratio")
        if ratio is None or float(ratio) != 0.0:
            raise node.refuse("training mode")
    mask = np.ones(x.shape, bool if node.opset >= 10 else x.dtype) if node.wants(1) else None
    return [x] if mask is None else [x, node.constant(mask)]


@converts("Shape")
def shape(node: NodeContext) -> Value:
    """Known at compile time."""
    dims = node.input(0).shape
    start, end = node.attr("start", 0), node.attr("end")
    return node.constant(np.array(dims[slice(start, end)], np.int64))


@converts("Size")
def size(node: NodeContext) -> Value:
    """Known at compile time."""
    return node.constant(np.array(node.input(0).size, np.int64))


@converts("Reshape")
def reshape(node: NodeContext) -> Value:
    """0 copies a size (without allowzero), -1 takes what is left."""
    x = node.input(0)
    wanted = node.attr("shape") if node.opset < 5 else node.array(1, "the shape")
    dims = [int(d) for d in np.asarray(wanted).reshape(-1)]
    if not node.attr("allowzero", 0):
        for index, d in enumerate(dims):
            if d == 0:
                if index >= len(x.shape):
                    raise ShapeError(f"shape {dims} copies axis {index} of {list(x.shape)}")
                dims[index] = x.shape[index]
    if dims.count(-1) > 1 or min(dims, default=1) < -1:
        raise ShapeError(f"{dims} is not a shape")
    if -1 in dims:
        known = math.prod(d for d in dims if d != -1)
        if known == 0 or x.size % known:
            raise ShapeError(f"{list(x.shape)} does not fit the shape {dims}")
        dims[dims.index(-1)] = x.size // known
    if math.prod(dims) != x.size:
        raise ShapeError(f"{list(x.shape)} has not as many elements as {dims}")
    return node.reshape(x, dims)


@converts("Flatten")
def flatten(node: NodeContext) -> Value:
    """A matrix, cut at `axis`."""
    x, axis = node.input(0), int(node.attr("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    return node.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def axes_of(node: NodeContext, rank: int, since: int) -> list[int] | None:
    """Axes from the attribute, or from opset `since` on from input 1; None if absent."""
    axes: Sequence[int] | np.ndarray | None = node.attr("axes")
    if node.opset >= since:
        axes = node.optional_array(1, "the axes")
    if axes is None:
        return None
    result = [normalised(int(a), rank) for a in np.asarray(axes).reshape(-1)]
    if len(set(result)) < len(result):
        raise ShapeError(f"axes {list(axes)} repeat")
    return result


def normalised(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise ShapeError(f"there is no axis {axis} in {rank}")
    return axis % rank if rank else 0


@converts("Squeeze")
def squeeze(node: NodeContext) -> Value:
    """Without axes of size one."""
    x = node.input(0)
    axes = axes_of(node, len(x.shape), 13)
    if axes is None:
        axes = [i for i, d in enumerate(x.shape) if d == 1]
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"axes {axes} of {list(x.shape)} are not all 1")
    return node.reshape(x, [d for i, d in enumerate(x.shape) if i not in axes])


@converts("Unsqueeze")
def unsqueeze(node: NodeContext) -> Value:
    """With new axes of size one; they count in the result."""
    x = node.input(0)
    count = len(node.attr("axes", ())) if node.opset < 13 else node.array(1, "the axes").size
    axes = axes_of(node, len(x.shape) + count, 13) or []
    rest = iter(x.shape)
    return node.reshape(x, [1 if i in axes else next(rest) for i in range(len(x.shape) + count)])


@converts("Transpose")
def transpose(node: NodeContext) -> Value:
    """Axes in another order, by default reversed."""
    x = node.input(0)
    perm = tuple(node.attr("perm") or range(len(x.shape))[::-1])
    if perm == tuple(range(len(x.shape))):
        return x
    moved = [a for a in perm if x.shape[a] != 1]
    if moved == sorted(moved):  # only axes of size one move
        return node.reshape(x, [x.shape[a] for a in perm])
    return node.emit("transpose", [x], perm=perm)


@converts("Expand")
def expand(node: NodeContext) -> Value:
    """Broadcast with a shape."""
    x = node.input(0)
    wanted = tuple(int(d) for d in node.array(1, "the shape"))
    target = np.broadcast_shapes(x.shape, wanted)
    return x if target == x.shape else node.emit("expand", [x], shape=target)


@converts("Tile")
def tile(node: NodeContext) -> Value:
    """Repeated along each axis."""
    x = node.input(0)
    repeats = tuple(int(r) for r in node.array(1, "the repeats").reshape(-1))
    if node.opset < 6:
        count, axis = int(repeats[0]), int(node.array(2, "the axis").reshape(-1)[0])
        repeats = tuple(count if a == axis else 1 for a in range(len(x.shape)))
    return x if set(repeats) <= {1} else node.emit("tile", [x], repeats=repeats)


@converts("DepthToSpace")
def depth_to_space(node: NodeContext) -> Value:
    """Blocks of channels become blocks of pixels."""
    x, b = node.input(0), int(node.attr("blocksize"))
    n, c, h, w = x.shape
    if c % (b * b):
        raise ShapeError(f"{c} channels do not divide into blocks of {b}x{b}")
    if node.attr("mode", "DCR") == "DCR":
        split, perm = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    out = node.emit("transpose", [node.reshape(x, split)], perm=perm)
    return node.reshape(out, (n, c // b**2, h * b, w * b))


@converts("SpaceToDepth")
def space_to_depth(node: NodeContext) -> Value:
    """Blocks of pixels become channels."""
    x, b = node.input(0), int(node.attr("blocksize"))
    n, c, h, w = x.shape
    if h % b or w % b:
        raise ShapeError(f"{h}x{w} does not divide into blocks of {b}x{b}")
    split = node.reshape(x, (n, c, h // b, b, w // b, b))
    perm = (0, 3, 5, 1, 2, 4) if node.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    out = node.emit("transpose", [split], perm=perm)
    return node.reshape(out, (n, c * b * b, h // b, w // b))
