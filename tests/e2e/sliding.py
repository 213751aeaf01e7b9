"""Sliding-channel convolutions as exporters write them: slices, concatenations, grouped 1x1."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    between: Callable[[str], str] = lambda y: y,
) -> str:
    """A sliding-channel convolution.

    form: "slice" is a slice for each window, two where it wraps; "split" splits the channels into
    pieces that windows are made of; "gather" gathers all windows at once, "gather32" by 32-bit
    indices, "table" by a table of indices, and reshapes; "classes" groups filters by window, and
    puts them in order behind the convolution and what is `between`.
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
    indices = [[(first[k] + j) % channels for j in range(width)] for k in groups]
    if form in ("gather", "gather32"):
        kind = np.int64 if form == "gather" else np.int32
        wide = maker.node("Gather", x, maker.constant(np.array(indices, kind).ravel()), axis=1)
    elif form == "table":
        wide = maker.node("Gather", x, maker.constant(np.array(indices, np.int64)), axis=1)
        size = maker.constant(np.array([0, -1, *sizes_of(maker, x)], np.int64))
        wide = maker.node("Reshape", wide, size)
    elif form == "split":
        wide = maker.node("Concat", *_pieces(maker, x, first, width, channels), axis=1)
    else:
        parts = [_window(maker, x, first[k], width, channels) for k in groups]
        wide = parts[0] if len(parts) == 1 else maker.node("Concat", *parts, axis=1)
    operands = [wide, maker.constant(weight)]
    if bias:
        operands.append(maker.constant(maker.rng.standard_normal(filters, np.float32)))
    y = between(maker.node("Conv", *operands, kernel_shape=(1, 1), group=len(groups)))
    if order is None:
        return y
    back = np.argsort(order)
    return str(maker.node("Gather", y, maker.constant(back.astype(np.int64)), axis=1))


def sizes_of(maker: ModelMaker, x: str) -> list[int]:
    """Height and width of a graph input."""
    (info,) = [i for i in maker.inputs if i.name == x]
    return [d.dim_value for d in info.type.tensor_type.shape.dim][2:]


def _pieces(maker: ModelMaker, x: str, first: list[int], width: int, channels: int) -> list[str]:
    """What all windows consist of, one after another: pieces of one Split."""
    ends = {(f + end) % channels for f in first for end in (0, width)}
    cuts = [*sorted(ends | {0}), channels]
    sizes = np.diff(cuts)
    if maker.opset < 13:
        made = maker.node("Split", x, outputs=len(sizes), axis=1, split=sizes.tolist())
    else:
        made = maker.node("Split", x, maker.constant(sizes), outputs=len(sizes), axis=1)
    pieces = dict(zip(cuts, zip(made, sizes, strict=False), strict=False))
    found = []
    for start in first:
        at = start
        while at < start + width:
            piece, size = pieces[at % channels]
            found.append(piece)
            at += int(size)
    return found


def _window(maker: ModelMaker, x: str, first: int, width: int, channels: int) -> str:
    ends = [(first, min(first + width, channels))]
    if first + width > channels:
        ends.append((0, first + width - channels))
    parts = [
        maker.node("Slice", x, *(maker.constant(np.array([v], np.int64)) for v in (*end, 1)))
        for end in ends
    ]
    return parts[0] if len(parts) == 1 else str(maker.node("Concat", *parts, axis=1))
