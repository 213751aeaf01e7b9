"""What the taps of a convolution read."""

from __future__ import annotations

from itertools import product

import numpy as np

from edgeconv.compression.dense_convs import DenseConv


def patches(conv: DenseConv, x: np.ndarray) -> np.ndarray:
    """[C, T, N·pixels] of the input [N, C, *spatial], in its element type."""
    kernel, sizes = conv.weight.shape[2:], conv.output_shape[2:]
    rank = len(kernel)
    width = [(0, 0), (0, 0), *((conv.padding[i], conv.padding[rank + i]) for i in range(rank))]
    crop = tuple(slice(max(-a, 0), None if b >= 0 else b) for a, b in width)
    padded = np.pad(x[crop], [(max(a, 0), max(b, 0)) for a, b in width])
    views = []
    for tap in product(*map(range, kernel)):
        window = tuple(
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, s, size in zip(tap, conv.dilation, conv.stride, sizes, strict=True)
        )
        views.append(padded[(slice(None), slice(None), *window)])
    stacked = np.stack(views, 2)  # [N, C, T, *pixels]
    n, c, t = stacked.shape[:3]
    return stacked.reshape(n, c, t, -1).transpose(1, 2, 0, 3).reshape(c, t, -1)


def as_matrix(y: np.ndarray) -> np.ndarray:
    """[K, N·pixels] of an output [N, K, *spatial]."""
    return np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)


def as_output(conv: DenseConv, y: np.ndarray) -> np.ndarray:
    """The inverse of `as_matrix`."""
    n, k, *sizes = conv.output_shape
    return np.ascontiguousarray(np.moveaxis(y.reshape(k, n, *sizes), 0, 1))
