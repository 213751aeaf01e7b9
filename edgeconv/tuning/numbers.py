"""Whole numbers for a convolution or a pool, what it must make of them, and whether a kernel did.

Small whole numbers are summed exactly in float32, in any order: a kernel that sums the products of
the definition must be right to the last bit, and so must one that takes the largest. Winograd's and
averages are allowed a bound instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import te

from edgeconv.layout import Layout
from edgeconv.operators import registry
from edgeconv.runtime.buffers import aligned
from edgeconv.workload import Activation, Conv2d, ConvTask, PoolTask, Task

UNTOUCHED = np.float32(-12345)  # what output buffers hold before
PADDING_LANE = np.float32(999)  # what padding lanes of inputs hold: any finite value must do
INEXACT = 1e-4  # of the largest output: a single wrong product is some 1e-3
ROUNDED = 1e-5  # activations that round
_EXACT_ACTIVATIONS = ("relu", "clip")


@dataclass(frozen=True)
class Numbers:
    """Arguments of a task, and its result.

    Attributes:
        data, residual, out: buffers in the task's layouts; `out` as it must be afterwards, with
            `UNTOUCHED` wherever a kernel must not write.
        weights, biases: OIHW and [K] of each convolution, for the family to pack; of depthwise
            branches [C, taps] and [branches · C].
    """

    data: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    residual: np.ndarray | None
    out: np.ndarray


def whole_numbers(task: Task, seed: int = 0) -> Numbers:
    """Seeded whole numbers from −4 to 4, and the exact result of the task."""
    rng = np.random.default_rng(seed)
    if isinstance(task, PoolTask):
        return _of_pool(rng, task)
    first, last = task.convolutions[0], task.convolutions[-1]
    conv = first.conv
    x = _draw(rng, conv.in_images, conv.in_channels, conv.height, conv.width)
    value, weights, biases = x, [], []
    whole = None
    for each in task.convolutions:
        weights.append(_weight(rng, each.conv))
        biases.append(_draw(rng, _filters(each.conv)))
        value = _sums(each, value, weights[-1], biases[-1])
        if each.residual is not None:
            whole = _draw(rng, *map_shape(each))
            images, pixels = written(each)
            value = value + whole[images][:, :, pixels[0], pixels[1]]
        if each.activation is not None:
            value = activated(value, each.activation)
    images, pixels = written(last)
    wanted = np.full(map_shape(last), UNTOUCHED)
    inside = wanted[images]
    inside[:, :, pixels[0], pixels[1]] = value
    wanted[images] = inside
    out = stored(wanted, last.out, UNTOUCHED, rim=UNTOUCHED)
    residual = None
    if whole is not None and last.residual is not None:
        residual = stored(whole, last.residual, PADDING_LANE)
    data = stored(x, first.data, PADDING_LANE)
    return Numbers(data, tuple(weights), tuple(biases), residual, out)


def _of_pool(rng: np.random.Generator, task: PoolTask) -> Numbers:
    window = task.window
    x = _draw(rng, window.batch, window.in_channels, window.height, window.width)
    out = stored(pooled(task, x), task.out, UNTOUCHED, rim=UNTOUCHED)
    return Numbers(stored(x, task.data, PADDING_LANE), (), (), None, out)


def pooled(task: PoolTask, x: np.ndarray) -> np.ndarray:
    """The definition: NCHW maps to the largest of each window, or its mean. A window that lies in
    the padding altogether has −infinity, or, of the part without padding, no mean: NaN.
    """
    window, largest = task.window, task.op == "max_pool2d"
    top, left, bottom, right = window.padding
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, around, constant_values=np.float32(-np.inf if largest else 0))
    inside = np.pad(np.ones_like(x[:1, :1]), around)
    taps = list(np.ndindex(*window.kernel_size))
    if largest:
        return np.asarray(np.maximum.reduce([_tap(window, padded, *tap) for tap in taps]))
    total = sum(_tap(window, padded, *tap) for tap in taps)
    counts = sum(_tap(window, inside, *tap) for tap in taps)
    count = counts if task.divisor == "valid" else np.float32(len(taps))
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count, np.float32)


def _tap(window: Conv2d, padded: np.ndarray, row: int, column: int) -> np.ndarray:
    """What every output reads at one place of its window."""
    (down, across), (high, wide) = window.stride, window.dilation
    rows = slice(row * high, row * high + (window.out_height - 1) * down + 1, down)
    columns = slice(column * wide, column * wide + (window.out_width - 1) * across + 1, across)
    return padded[:, :, rows, columns]


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(np.float32)


def _weight(rng: np.random.Generator, conv: Conv2d) -> np.ndarray:
    """OIHW, zeros where clusters read nothing; of depthwise branches [C, taps]."""
    if conv.branches is not None:
        return _draw(rng, conv.in_channels, conv.branches.taps)
    shape = (conv.out_channels, conv.in_channels_per_group, conv.tap_rows, conv.kernel_size[1])
    weight = _draw(rng, *shape)
    if conv.clusters is not None:
        weight *= conv.clusters.reads()[:, :, None, None]
    return weight


def _filters(conv: Conv2d) -> int:
    """Output channels; of depthwise branches those of all, added up or not."""
    count = 0 if conv.branches is None else len(conv.branches.members)
    return count * conv.in_channels or conv.out_channels


def _sums(task: ConvTask, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The convolution and its bias; of depthwise branches, with the activation of each."""
    conv = task.conv
    if conv.branches is None:
        value = convolution(conv, x, weight)
        return value + bias.reshape(1, -1, 1, 1) if task.bias else value
    made, start = [], 0
    for number, branch in enumerate(conv.branches.members):
        window = np.zeros((conv.in_channels, 1, *conv.kernel_size), np.float32)
        end = start + len(branch.taps)
        for (row, column), values in zip(branch.taps, weight[:, start:end].T, strict=True):
            window[:, 0, row, column] = values
        filters = replace(conv, out_channels=conv.in_channels, branches=None)
        value = convolution(filters, x, window)
        if task.bias:
            value = value + bias.reshape(-1, conv.in_channels, 1, 1)[number]
        made.append(value if branch.activation is None else activated(value, branch.activation))
        start = end
    if conv.branches.concat:
        return np.concatenate(made, axis=1)
    return np.asarray(sum(made))


def map_shape(task: ConvTask) -> tuple[int, int, int, int]:
    """NCHW shape of the whole map that `out` holds."""
    conv = task.conv
    size = (conv.out_height, conv.out_width) if task.place is None else task.place.size
    return (conv.out_images, conv.out_channels, *size)


def written(task: ConvTask) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Images of the whole map that the task writes, and which rows and columns of them."""
    conv, place = task.conv, task.place
    images = np.arange(conv.batch)
    if (s := conv.slices) is not None:
        images = images // s.count * s.out_depth + images % s.count * s.out_stride + s.out_first
    if place is None:
        return images, (slice(None), slice(None))
    counts = (conv.out_height, conv.out_width)
    rows, columns = (
        slice(start, start + (count - 1) * step + 1, step)
        for start, step, count in zip(place.start, place.step, counts, strict=True)
    )
    return images, (rows, columns)


def convolution(conv: Conv2d, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of the definition: [images, C, H, W], [K, CPG, R, S] to [batch, K, OH, OW]."""
    order = np.arange(conv.in_channels).reshape(conv.input_shuffle, -1).T.reshape(-1)
    x, height = x[:, order], conv.kernel_size[0]
    if (s := conv.slices) is None:
        return _images(conv, x, weight)
    n = np.arange(conv.batch)
    first = n // s.count * s.depth + n % s.count * s.stride + s.first
    total = np.zeros(conv.output_shape, np.float32)
    for tap in range(s.taps):
        rows = weight[:, :, tap * height : (tap + 1) * height]
        total += _images(conv, x[first + tap * s.dilation], rows)
    return total


def _images(conv: Conv2d, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    top, left, bottom, right = (max(p, 0) for p in conv.padding)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    cut = [max(-p, 0) for p in conv.padding]
    x = x[:, :, cut[0] : x.shape[2] - cut[2], cut[1] : x.shape[3] - cut[3]]
    n, groups = len(x), conv.groups
    height, width = conv.out_height, conv.out_width
    kernels = weight.reshape(groups, conv.out_channels_per_group, -1, *weight.shape[2:])
    total = np.zeros((n, groups, conv.out_channels_per_group, height * width), np.float32)
    (down, across), (high, wide) = conv.stride, conv.dilation
    for kh in range(weight.shape[2]):
        for kw in range(weight.shape[3]):
            if not kernels[..., kh, kw].any():
                continue
            rows = slice(kh * high, kh * high + (height - 1) * down + 1, down)
            columns = slice(kw * wide, kw * wide + (width - 1) * across + 1, across)
            tap = x[:, :, rows, columns].reshape(n, groups, -1, height * width)
            total += kernels[..., kh, kw] @ tap
    return total.reshape(n, conv.out_channels, height, width)


def activated(value: np.ndarray, activation: Activation) -> np.ndarray:
    """The unary operator applied; all but the simplest by its plain expression, compiled here."""
    name, attributes = activation
    given = dict(attributes)
    if name == "relu":
        return np.maximum(value, np.float32(0))
    if name == "clip":
        low, high = (given.get(k) for k in ("low", "high"))
        value = value if low is None else np.maximum(value, np.float32(low))  # type: ignore[arg-type]
        return value if high is None else np.minimum(value, np.float32(high))  # type: ignore[arg-type]
    x = te.placeholder(value.shape, "float32", name="x")
    (y,) = registry.get(name)(x, **given)
    kernel = tvm.compile(te.create_prim_func([x, y]), target={"kind": "llvm"})
    result = tvm.runtime.empty(value.shape, "float32")
    kernel(tvm.runtime.tensor(np.ascontiguousarray(value)), result)
    return np.asarray(result.numpy())


def stored(
    values: np.ndarray, layout: Layout, lane: np.float32, rim: np.float32 = np.float32(0)
) -> np.ndarray:
    """NCHW values in a layout's buffer; `lane` in its padding lanes, `rim` around the maps."""
    n, c, h, w = values.shape
    chunks = -(-c // layout.block)
    filled = np.full((n, chunks * layout.block, h, w), lane, np.float32)
    filled[:, :c] = values
    blocks = filled.reshape(n, chunks, layout.block, h, w).transpose(0, 1, 3, 4, 2)
    buffer = aligned(layout.buffer_shape(values.shape), "float32")
    buffer[...] = rim
    top, left, _, _ = layout.halo
    buffer[:, :, top : top + h, left : left + w] = blocks
    return buffer


def fault(task: Task, wanted: np.ndarray, got: np.ndarray, exact: bool) -> str | None:
    """What is wrong with an output buffer; None if it is right.

    Padding lanes of the channels may hold anything.
    """
    if isinstance(task, PoolTask):
        layout, channels = task.out, task.window.out_channels
    else:
        layout, channels = task.convolutions[-1].out, task.convolutions[-1].conv.out_channels
    used = np.arange(wanted.shape[1] * layout.block).reshape(-1, layout.block) < channels
    mask = np.broadcast_to(used[None, :, None, None, :], wanted.shape)
    foreign = mask & (wanted == UNTOUCHED)
    if (got[foreign] != UNTOUCHED).any():
        return "wrote outside its output"
    ours = mask & ~foreign
    right, result = wanted[ours], got[ours]
    same = (result == right) | (np.isnan(result) & np.isnan(right))
    error = float(np.abs(result[~same] - right[~same]).max(initial=0))
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0))
    limit = allowed(task, exact) * max(scale, 1)
    if error <= limit:
        return None
    return f"wrong result: off by {error:.3g} where the largest value is {scale:.3g}"


def allowed(task: Task, exact: bool) -> float:
    """Largest error of a right kernel, relative to the largest output."""
    if not exact:
        return INEXACT
    if isinstance(task, PoolTask):
        return 0.0 if task.op == "max_pool2d" else ROUNDED
    applied = [each.activation for each in task.convolutions]
    for each in task.convolutions:
        applied += [b.activation for b in each.conv.branches.members] if each.conv.branches else []
    names = {activation[0] for activation in applied if activation is not None}
    return 0.0 if names <= set(_EXACT_ACTIVATIONS) else ROUNDED
