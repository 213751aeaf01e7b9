"""Aligned memory, and offsets of all activations in one workspace, reused once a value is dead.

Buffers with a halo never share memory with other shapes: their rim is zeroed once, when the
workspace is made, and stays zero because kernels write interiors only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.layout import ALIGNMENT

SLACK = 64  # readable bytes behind a buffer: a vector load of the last pixel may reach there


@dataclass(frozen=True)
class Request:
    """A buffer wanted from step `first` to step `last`, both included.

    `rim` is None, or what a buffer must have in common to share memory: its full shape and halo.
    """

    size: int
    first: int
    last: int
    rim: Hashable | None = None


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def aligned_bytes(size: int, *, zero: bool = False) -> np.ndarray:
    """`size` aligned bytes, with readable ones behind them; uninitialised unless `zero`."""
    raw = (np.zeros if zero else np.empty)(size + ALIGNMENT + SLACK, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def plan(requests: Sequence[Request]) -> tuple[list[int], int]:
    """An offset for each request, and the size of the workspace, in bytes."""
    offsets = [0] * len(requests)
    end = _place_rims(requests, offsets)
    placed: list[int] = []
    total = end
    order = [i for i, r in enumerate(requests) if r.rim is None]
    for i in sorted(order, key=lambda i: -requests[i].size):
        request, size = requests[i], aligned(requests[i].size)
        start = end
        rivals = [
            j
            for j in placed
            if requests[j].first <= request.last and request.first <= requests[j].last
        ]
        for j in sorted(rivals, key=lambda j: offsets[j]):
            if start + size <= offsets[j]:
                break
            start = max(start, offsets[j] + aligned(requests[j].size))
        offsets[i] = start
        placed.append(i)
        total = max(total, start + size)
    return offsets, total


def _place_rims(requests: Sequence[Request], offsets: list[int]) -> int:
    """Slots for buffers with a halo, shared by equal shapes whose lives do not overlap."""
    slots: dict[Hashable, list[tuple[int, int]]] = {}  # rim → (offset, last use)
    end = 0
    for i in sorted(range(len(requests)), key=lambda i: requests[i].first):
        request = requests[i]
        if request.rim is None:
            continue
        free = slots.setdefault((request.rim, request.size), [])
        for number, (offset, last) in enumerate(free):
            if last < request.first:
                free[number] = (offset, request.last)
                offsets[i] = offset
                break
        else:
            offsets[i] = end
            free.append((end, request.last))
            end += aligned(request.size)
    return end
