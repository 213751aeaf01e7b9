"""Sliding-channel convolutions as exporters write them: slices, concatenations, grouped 1x1."""

from __future__ import annotations

import math

import numpy as np

from tests.e2e.models import ModelMaker, he_normal


def starts(channels: int, filters: int, cg: int, overlap: float) -> list[int]:
    """First input channel of every filter's window."""
    step = (1 - overlap) * (channels // cg)
    return [math.floor(k * step) % channels for k in range(filters)]


def sliding(
    maker: ModelMaker,
    x: str,
    channels: int,
    filters: int,
    *,
    cg: int,
    overlap: float,
    form: str = "slice",
    bias: bool = True,
    weight: np.ndarray | None = None,
) -> str:
    """A sliding-channel convolution.

    form: "slice" is a slice for each window, two where it wraps; "gather" gathers all windows at
    once; "classes" groups filters by window, and puts them in order behind the convolution.
    """
    first, width = starts(channels, filters, cg, overlap), channels // cg
    if weight is None:
        weight = he_normal(maker.rng, (filters, width, 1, 1))
    groups, order = list(range(filters)), None
    if form == "classes":
        windows = sorted(set(first))
        order = sorted(range(filters), key=lambda k: windows.index(first[k]))
        sizes = {first.count(w) for w in windows}
        assert len(sizes) == 1, "filters do not divide among the windows"
        groups = [order[i * sizes.copy().pop()] for i in range(len(windows))]
        weight = weight[order]
    if form == "gather":
        indices = [(first[k] + j) % channels for k in groups for j in range(width)]
        wide = maker.node("Gather", x, maker.constant(np.array(indices, np.int64)), axis=1)
    else:
        parts = [_window(maker, x, first[k], width, channels) for k in groups]
        wide = parts[0] if len(parts) == 1 else maker.node("Concat", *parts, axis=1)
    operands = [wide, maker.constant(weight)]
    if bias:
        operands.append(maker.constant(maker.rng.standard_normal(filters, np.float32)))
    y: str = maker.node("Conv", *operands, kernel_shape=(1, 1), group=len(groups))
    if order is None:
        return y
    back = np.argsort(order)
    return str(maker.node("Gather", y, maker.constant(back.astype(np.int64)), axis=1))


def _window(maker: ModelMaker, x: str, first: int, width: int, channels: int) -> str:
    ends = [(first, min(first + width, channels))]
    if first + width > channels:
        ends.append((0, first + width - channels))
    parts = [
        maker.node("Slice", x, *(maker.constant(np.array([v], np.int64)) for v in (*end, 1)))
        for end in ends
    ]
    return parts[0] if len(parts) == 1 else str(maker.node("Concat", *parts, axis=1))
