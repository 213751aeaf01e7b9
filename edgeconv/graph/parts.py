"""The convolutions that make up one conv2d node: mostly itself.

Between the pixels of a strided input (a transposed convolution) lie zeros. Output pixels whose
coordinates agree modulo the stride meet the same few taps of the kernel, so each such phase is a
convolution of the input as it is, with a kernel of those taps, whose results lie `stride` apart.

Slices of volumes near the ends read fewer slices than others: a convolution for each such run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    rows: range
    columns: range

    def kernel(self, weight: np.ndarray) -> np.ndarray:
        """Its share of the node's weights [K, C/groups, R, S]."""
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
    """Neighbouring output slices that meet the same taps along the depth."""

    first: int
    count: int
    taps: range


def slice_runs(depth: Depth) -> list[SliceRun]:
    """The runs of all output slices; those that read none have an empty range."""
    found: list[SliceRun] = []
    for slot in range(depth.out_size):
        begin = slot * depth.stride - depth.before
        hit = [t for t in range(depth.taps) if 0 <= begin + t * depth.dilation < depth.size]
        taps = range(hit[0], hit[-1] + 1) if hit else range(0)
        if found and found[-1].taps == taps:
            last = found.pop()
            found.append(SliceRun(last.first, last.count + 1, taps))
        else:
            found.append(SliceRun(slot, 1, taps))
    return found


def parts(node: Node) -> tuple[Part, ...]:
    """The convolutions of a conv2d node."""
    return tuple(_parts(node))


def _parts(node: Node) -> Iterator[Part]:
    n, c, h, w = node.inputs[0].shape
    k, _, r, s = node.inputs[1].shape
    a = node.attrs
    groups, shuffle = a["groups"], a.get("input_shuffle", 1)
    padding, dilation = a["padding"], a["dilation"]
    stride = a.get("input_stride", (1, 1))
    depth: Depth | None = a.get("depth")
    if depth is not None:
        yield from _slice_parts(node, depth)
        return
    if stride == (1, 1):
        window = (a["stride"], padding, dilation)
        conv = Conv2d(n, c, h, w, k, (r, s), *window, groups, shuffle)
        yield Part(conv, None, range(r), range(s))
        return
    oh, ow = node.output.shape[2:]
    vertical = phases(h, oh, r, dilation[0], padding[0], stride[0])
    horizontal = phases(w, ow, s, dilation[1], padding[1], stride[1])
    for y, x in product(vertical, horizontal):
        conv = Conv2d(
            n,
            c,
            h,
            w,
            k,
            (len(y.taps), len(x.taps)),
            (1, 1),
            (y.before, x.before, y.after, x.after),
            (y.dilation, x.dilation),
            groups,
            shuffle,
        )
        yield Part(conv, Place((oh, ow), (y.start, x.start), stride), y.taps, x.taps)


def _slice_parts(node: Node, depth: Depth) -> Iterator[Part]:
    n, c, h, w = node.inputs[0].shape
    k, _, r, s = node.inputs[1].shape
    r //= depth.taps
    a = node.attrs
    volumes = n // depth.size
    for run in slice_runs(depth):
        slices = Slices(
            depth.size,
            depth.out_size,
            len(run.taps),
            depth.stride,
            depth.dilation,
            run.first * depth.stride - depth.before + run.taps.start * depth.dilation,
            run.first,
            run.count,
        )
        conv = Conv2d(
            volumes * run.count,
            c,
            h,
            w,
            k,
            (r, s),
            a["stride"],
            a["padding"],
            a["dilation"],
            a["groups"],
            slices=slices,
        )
        yield Part(conv, None, range(run.taps.start * r, run.taps.stop * r), range(s))


def rim(node: Node) -> Halo:
    """The zeros that the parts of a conv2d node read around its input."""
    top, left, bottom, right = zip(*(p.conv.padding for p in parts(node)), strict=True)
    return max(0, *top), max(0, *left), max(0, *bottom), max(0, *right)
