"""Which rank each layer gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.errors import EdgeconvError

_LEAST = 1e-12  # energy whose logarithm stands for nothing left
_UNITS = 4096


@dataclass(frozen=True)
class Options:
    """The ranks of one layer that lower its work, from 1 up.

    Attributes:
        dense: multiply-accumulates as it is.
        macs: by rank − 1.
        energy: the share kept, by rank − 1.
    """

    dense: int
    macs: tuple[int, ...]
    energy: tuple[float, ...]

    def from_energy(self, least: float) -> range:
        """Ranks that keep at least this share."""
        first = next((r for r, e in enumerate(self.energy, 1) if e >= least - 1e-12), None)
        return range(0) if first is None else range(first, len(self.macs) + 1)


def by_energy(layers: Sequence[Options], least: float) -> list[int]:
    """The least rank of each layer that keeps this share; 0 where no cheaper one does."""
    return [next(iter(layer.from_energy(least)), 0) for layer in layers]


def by_ratio(layers: Sequence[Options], total: int, ratio: float, least: float = 0.0) -> list[int]:
    """Ranks (0: left dense) with which the network has at most 1/ratio of its `total` work.

    Of all such choices the one whose product of energies is largest: a multiple-choice knapsack
    over the work saved, counted in 4096ths of what must be saved and rounded down.

    Raises:
        EdgeconvError: no choice of ranks is that cheap.
    """
    excess = total - total / ratio
    allowed = [layer.from_energy(least) for layer in layers]
    cheapest = [next(iter(ranks), 0) for ranks in allowed]
    most = sum(_saved(x, r) for x, r in zip(layers, cheapest, strict=True))
    if most < excess:
        bound = f" that keep {least:.4g} of the energy" if least > 0 else ""
        raise EdgeconvError(
            f"a ratio of {ratio:g} is out of reach: with the lowest ranks{bound} the network still "
            f"has {(total - most) / 1e6:,.2f} of {total / 1e6:,.2f} million multiply-accumulates, "
            f"a ratio of {total / (total - most):.2f}"
        )
    losses = np.full(_UNITS + 1, np.inf)  # the least, by units saved; the last stands for more too
    losses[0] = 0.0
    history = []
    for layer, ranks in zip(layers, allowed, strict=True):
        losses, step = _with_layer(layer, ranks, losses, excess / _UNITS)
        history.append(step)
    if not np.isfinite(losses[-1]):
        return cheapest  # at the very limit, where rounding hides the only choice
    units, chosen = _UNITS, []
    for rank_of, before in reversed(history):
        chosen.append(int(rank_of[units]))
        units = int(before[units])
    return chosen[::-1]


def _with_layer(
    layer: Options, ranks: range, losses: np.ndarray, unit: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Losses by units saved with one layer more; its rank for each, and the units without it."""
    best = losses.copy()
    rank_of = np.zeros(_UNITS + 1, np.int64)
    before = np.arange(_UNITS + 1)
    for rank in ranks:
        units = min(int(_saved(layer, rank) / unit), _UNITS)
        loss = -math.log(max(layer.energy[rank - 1], _LEAST))
        start = np.arange(_UNITS + 1) - units
        start[-1] += int(np.argmin(losses[_UNITS - units :]))
        found = np.where(start >= 0, losses[np.maximum(start, 0)] + loss, np.inf)
        better = found < best
        best[better], rank_of[better], before[better] = found[better], rank, start[better]
    return best, (rank_of, before)


def _saved(layer: Options, rank: int) -> int:
    return layer.dense - layer.macs[rank - 1] if rank else 0


def options(dense: int, macs: Sequence[int], energy: np.ndarray) -> Options:
    """Of all ranks from 1 up those with less work than `dense`."""
    count = sum(m < dense for m in macs)
    return Options(dense, tuple(macs[:count]), tuple(float(e) for e in energy[1 : count + 1]))
