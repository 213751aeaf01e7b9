"""The convolutions that make up one conv2d node: mostly itself.

Between the pixels of a strided input (a transposed convolution) lie zeros. Output pixels whose
coordinates agree modulo the stride meet the same few taps of the kernel, so each such phase is a
convolution of the input as it is, with a kernel of those taps, whose results lie `stride` apart.

Slices of volumes near the ends read fewer slices than others: a convolution for each such run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from edgeconv.graph.ir import Node
from edgeconv.layout import Halo
from edgeconv.operators.convolution import Depth
from edgeconv.workload import Conv2d, Place, Slices


@dataclass(frozen=True)
class Part:
    """A convolution that makes some of a node's output, and which taps of the kernel it takes."""

    conv: Conv2d
    place: Place | None
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def kernel(self, weight: np.ndarray) -> np.ndarray:
        """Its share of the node's weights [K, C/groups, R, S]."""
        if self.conv.branches is not None:
            return weight
        return weight[:, :, self.rows][:, :, :, self.columns]


@dataclass(frozen=True)
class Phase:
    """One axis of a part: outputs start, start + stride, …; `count` of them."""

    start: int
    count: int
    taps: range
    dilation: int
    before: int  # padding
    after: int


def phases(
    size: int, out: int, kernel: int, dilation: int, padding: int, stride: int
) -> list[Phase]:
    """The phases of an axis with `size` inputs, `stride` apart, behind `padding` zeros.

    Phases without outputs are left out; those without taps have an empty range.
    """
    found = []
    common = math.gcd(dilation, stride)
    for start in range(min(stride, out)):
        count = -(-(out - start) // stride)
        first = next(
            (k for k in range(kernel) if (start + k * dilation - padding) % stride == 0), kernel
        )
        taps = range(first, kernel, stride // common)
        step = dilation // common if len(taps) > 1 else 1
        before = (padding - start - first * dilation) // stride
        after = count + step * (len(taps) - 1) - size - before
        found.append(Phase(start, count, taps, step, before, after))
    return found


@dataclass(frozen=True)
class SliceRun:
    """Output slices, `step` apart, that meet the same taps along the depth."""

    first: int
    step: int
    count: int
    taps: range


def slice_runs(depth: Depth) -> list[SliceRun]:
    """The runs of all output slices; those that read none have an empty range."""
    found: list[SliceRun] = []
    step = depth.gap // math.gcd(depth.gap, depth.dilation)
    for slot in (s for phase in range(depth.gap) for s in range(phase, depth.out_size, depth.gap)):
        places = [
            slot * depth.stride - depth.before + t * depth.dilation for t in range(depth.taps)
        ]
        last = (depth.size - 1) * depth.gap
        hit = [t for t, p in enumerate(places) if 0 <= p <= last and p % depth.gap == 0]
        taps = range(hit[0], hit[-1] + 1, step) if hit else range(0)
        before = found[-1] if found else None
        if before and before.taps == taps and before.first + before.count * before.step == slot:
            found[-1] = SliceRun(before.first, before.step, before.count + 1, taps)
        else:
            found.append(SliceRun(slot, depth.gap, 1, taps))
    return found


def has_constant_weights(node: Node) -> bool:
    """Whether a convolution's operands but its data and residual are known at compile time."""
    operands = node.inputs[1:-1] if node.attrs.get("has_residual") else node.inputs[1:]
    return all(v.is_constant for v in operands)


def parts(node: Node) -> tuple[Part, ...]:
    """The convolutions of a conv2d or depthwise_branches node."""
    if node.op == "depthwise_branches":
        return (Part(_branches(node), None, (), ()),)
    return tuple(_parts(node))


def _branches(node: Node) -> Conv2d:
    n, c, h, w = node.inputs[0].shape
    a = node.attrs
    return Conv2d(
        n,
        c,
        h,
        w,
        node.output.shape[1],
        a["kernel_size"],
        a["stride"],
        a["padding"],
        groups=c,
        branches=a["branches"],
    )


def _parts(node: Node) -> Iterator[Part]:
    n, c, h, w = node.inputs[0].shape
    k, _, r, s = node.inputs[1].shape
    a = node.attrs
    depth: Depth | None = a.get("depth")
    runs: list[SliceRun | None] = [None]
    if depth is not None:
        runs, r = [*slice_runs(depth)], r // depth.taps
    for run, (window, place, rows, columns) in product(runs, _windows(node, r, s)):
        slices = None
        if depth is not None and run is not None:
            slices = _slices(depth, run)
            n = node.inputs[0].shape[0] // depth.size * run.count
            rows = [t * r + row for t in run.taps for row in rows]
        shuffle = a.get("input_shuffle", 1)
        conv = Conv2d(n, c, h, w, k, *window, a["groups"], shuffle, slices, a.get("clusters"))
        yield Part(conv, place, tuple(rows), tuple(columns))


def _slices(depth: Depth, run: SliceRun) -> Slices:
    first = run.first * depth.stride - depth.before + run.taps.start * depth.dilation
    return Slices(
        depth.size,
        depth.out_size,
        len(run.taps),
        depth.stride * run.step // depth.gap,
        depth.dilation * run.taps.step // depth.gap,
        first // depth.gap,
        run.first,
        run.step,
        run.count,
    )


Window = tuple[tuple[int, int], tuple[int, int], Halo, tuple[int, int]]


def _windows(
    node: Node, r: int, s: int
) -> Iterator[tuple[Window, Place | None, Sequence[int], Sequence[int]]]:
    """Kernel size, stride, padding and dilation of each phase, its place, and its taps."""
    a = node.attrs
    padding, dilation = a["padding"], a["dilation"]
    gaps = a.get("input_stride", (1, 1))
    if gaps == (1, 1):
        yield ((r, s), a["stride"], padding, dilation), None, range(r), range(s)
        return
    (h, w), (oh, ow) = node.inputs[0].shape[2:], node.output.shape[2:]
    vertical = phases(h, oh, r, dilation[0], padding[0], gaps[0])
    horizontal = phases(w, ow, s, dilation[1], padding[1], gaps[1])
    for y, x in product(vertical, horizontal):
        taps = (len(y.taps), len(x.taps))
        pads = (y.before, x.before, y.after, x.after)
        window = (taps, (1, 1), pads, (y.dilation, x.dilation))
        yield window, Place((oh, ow), (y.start, x.start), gaps), y.taps, x.taps


def rim(node: Node) -> Halo:
    """The zeros that the parts of a conv2d node read around its input."""
    top, left, bottom, right = zip(*(p.conv.padding for p in parts(node)), strict=True)
    return max(0, *top), max(0, *left), max(0, *bottom), max(0, *right)
