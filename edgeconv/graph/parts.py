"""The convolutions that make up one conv2d node: itself, or one for each phase of a strided input.

Between the pixels of a strided input (a transposed convolution) lie zeros. Output pixels whose
coordinates agree modulo the stride meet the same few taps of the kernel, so each such phase is a
convolution of the input as it is, with a kernel of those taps, whose results lie `stride` apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from edgeconv.graph.ir import Node
from edgeconv.layout import Halo
from edgeconv.workload import Conv2d, Place


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


def rim(node: Node) -> Halo:
    """The zeros that the parts of a conv2d node read around its input."""
    top, left, bottom, right = zip(*(p.conv.padding for p in parts(node)), strict=True)
    return max(0, *top), max(0, *left), max(0, *bottom), max(0, *right)
