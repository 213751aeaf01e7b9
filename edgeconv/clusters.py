"""Which input channels each output channel of a convolution reads, where not all read all.

Output channels that read the same input channels form a cluster. Sliding-channel convolutions (Wang
et al., "DSXplore", IPDPS 2021) have a cluster for every window; self-grouping networks (Guo et al.)
have clusters of unequal size whose channels lie anywhere, and that may share inputs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """Output channels that read the same input channels, both in rising order."""

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Tile:
    """Output channels that a kernel computes together, and all input channels any of them reads."""

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Clusters:
    """All output channels of a convolution of `in_channels` inputs, each in one cluster.

    Clusters are in the order of their inputs: windows by where they start, others by their lowest.
    """

    in_channels: int
    members: tuple[Cluster, ...]

    @staticmethod
    def of(reads: np.ndarray) -> Clusters:
        """From a table [K, C] that is True where output k reads input c."""
        rows: dict[bytes, list[int]] = {}
        for k, row in enumerate(np.ascontiguousarray(reads, bool)):
            rows.setdefault(row.tobytes(), []).append(k)
        found = [
            Cluster(tuple(outs), tuple(int(c) for c in np.flatnonzero(reads[outs[0]])))
            for outs in rows.values()
        ]
        channels = int(reads.shape[1])
        found.sort(key=lambda c: (_first(c.inputs, channels), c.inputs, c.outputs))
        return Clusters(channels, tuple(found))

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return sum(len(c.outputs) for c in self.members)

    @property
    def products(self) -> int:
        """Pairs of an output channel and an input channel it reads."""
        return sum(len(c.outputs) * len(c.inputs) for c in self.members)

    @property
    def is_ragged(self) -> bool:
        """False where all outputs that read anything read the same channels."""
        return sum(bool(c.inputs) for c in self.members) > 1

    @property
    def window(self) -> int:
        """Channels of a window if every cluster reads one, all are as wide, and they overlap; or 0.

        Windows run on from the last channel to the first.
        """
        sizes = {len(c.inputs) for c in self.members}
        if len(sizes) != 1 or len(self.members) < 2:
            return 0
        (size,) = sizes
        overlap = len(self.members) * size > self.in_channels
        windows = all(_is_window(c.inputs, self.in_channels) for c in self.members)
        return size if windows and overlap else 0

    def reads(self) -> np.ndarray:
        """The table [K, C] that `of` takes."""
        table = np.zeros((self.out_channels, self.in_channels), bool)
        for cluster in self.members:
            table[np.ix_(cluster.outputs, cluster.inputs)] = True
        return table

    def tiles(self, size: int) -> tuple[Tile, ...]:
        """All output channels in tiles of at most `size`, of few products: see `_tiles`."""
        return _tiles(self, size)

    def runs(self, size: int) -> tuple[Tile, ...]:
        """Tiles of `size` output channels that follow each other; the last may be shorter."""
        reads, count = self.reads(), self.out_channels
        spans = [range(i, min(i + size, count)) for i in range(0, count, size)]
        return tuple(_tile(span, np.flatnonzero(reads[list(span)].any(0))) for span in spans)

    def __str__(self) -> str:
        """windows12x16: 12 windows of 16 channels; clusters5,1840: 5 clusters, 1840 products."""
        if self.window:
            return f"windows{len(self.members)}x{self.window}"
        return f"clusters{len(self.members)},{self.products}"


def _first(inputs: Sequence[int], channels: int) -> int:
    """Where the inputs start: for a window that runs over the end, its first channel."""
    if not inputs:
        return 0
    if inputs[0] == 0 and inputs[-1] == channels - 1 and _is_window(inputs, channels):
        gaps = [b for a, b in itertools.pairwise(inputs) if b != a + 1]
        return gaps[0] if gaps else 0
    return inputs[0]


def _is_window(inputs: Sequence[int], channels: int) -> bool:
    """Whether channels follow each other, the first behind the last."""
    if not inputs:
        return False
    gaps = sum(b != a + 1 for a, b in itertools.pairwise(inputs))
    gaps += (inputs[0] - inputs[-1]) % channels != 1 % channels
    return gaps <= 1


def _tile(outputs: Iterable[int], inputs: Iterable[int]) -> Tile:
    return Tile(tuple(int(k) for k in outputs), tuple(int(c) for c in inputs))


@functools.lru_cache(maxsize=256)
def _tiles(clusters: Clusters, size: int) -> tuple[Tile, ...]:
    """Full tiles from each cluster; what remains is put together with its neighbours.

    A tile takes as long as its inputs are many, whether it is full or not. Remainders of
    neighbouring clusters share a tile, which then reads the inputs of all of them (and multiplies
    some by zero), wherever the sum of inputs over all tiles becomes less: dynamic programming.
    """
    tiles: list[Tile] = []
    rest: list[Cluster] = []
    for cluster in clusters.members:
        outs, full = cluster.outputs, len(cluster.outputs) // size * size
        tiles += [Tile(outs[i : i + size], cluster.inputs) for i in range(0, full, size)]
        if outs[full:]:
            rest.append(Cluster(outs[full:], cluster.inputs))
    best: list[tuple[int, int]] = [(0, 0)]  # least inputs of the first i remainders, last cut
    for end in range(1, len(rest) + 1):
        options = []
        union: set[int] = set()
        outputs = 0
        for start in range(end - 1, -1, -1):
            outputs += len(rest[start].outputs)
            if outputs > size:
                break
            union |= set(rest[start].inputs)
            options.append((best[start][0] + len(union) + TILE_COST, start))
        best.append(min(options))
    end = len(rest)
    while end:
        start = best[end][1]
        taken = rest[start:end]
        outputs_of = [k for c in taken for k in c.outputs]
        tiles.append(_tile(outputs_of, sorted({i for c in taken for i in c.inputs})))
        end = start
    return tuple(tiles)


TILE_COST = 2  # what a tile costs beside its products, in input channels
