"""Medians with intervals, ratios of engines that ran in the same rounds, and samples as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Rounds = Sequence[Sequence[float]]
"""Milliseconds of the calls of each round; a round may be empty."""

DRAWS = 1000  # bootstrap resamples
LEVEL = 95.0  # percent an interval covers
_AT_ONCE = 100  # resamples computed together: bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A value and its interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """[value, low, high] with five digits."""
        return [float(f"{x:.5g}") for x in (self.value, self.low, self.high)]


def median(rounds: Rounds, seed: int = 0) -> Estimate:
    """Median of all calls with its bootstrap interval; whole rounds are drawn, because calls of one
    round share its luck.

    Raises:
        ValueError: there is no call.
    """
    kept = [r for r in rounds if len(r)]
    if not kept:
        raise ValueError("no calls")
    values = np.concatenate(kept)
    owner = np.repeat(np.arange(len(kept)), [len(r) for r in kept])
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], owner[order]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS // _AT_ONCE):
        weights = rng.multinomial(len(kept), [1 / len(kept)] * len(kept), size=_AT_ONCE)
        below = np.cumsum(weights.astype(np.int32)[:, owner], axis=1, dtype=np.int32)
        found.append(ordered[(2 * below >= below[:, -1:]).argmax(axis=1)])
    return _estimate(float(np.median(values)), np.concatenate(found))


def paired_ratio(rounds: Rounds, base: Rounds, seed: int = 0) -> Estimate | None:
    """Median over the rounds of (median of `rounds` / median of `base`) with its bootstrap
    interval; None where no round has calls of both.
    """
    pairs = [
        np.median(a) / np.median(b) for a, b in zip(rounds, base, strict=True) if len(a) and len(b)
    ]
    if not pairs:
        return None
    ratios = np.array(pairs)
    rng = np.random.default_rng(seed)
    drawn = ratios[rng.integers(0, len(ratios), (DRAWS, len(ratios)))]
    return _estimate(float(np.median(ratios)), np.median(drawn, axis=1))


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    edge = (100 - LEVEL) / 2
    low, high = np.percentile(resampled, [edge, 100 - edge])
    return Estimate(value, min(float(low), value), max(float(high), value))


def drift(values: Sequence[float]) -> float:
    """How far apart the 10th and 90th percentiles are: 0.1 for ten percent."""
    low, high = np.percentile(values, [10, 90])
    return float(high / low - 1)


def samples_to_text(rounds: Rounds, disturbed: Rounds) -> str:
    """All calls, compactly: milliseconds, rounds separated by ";", disturbed calls marked "!"."""
    return ";".join(
        " ".join([*(f"{x:.4g}" for x in r), *(f"{x:.4g}!" for x in d)])
        for r, d in zip(rounds, disturbed, strict=True)
    )


def samples_from_text(text: str) -> tuple[list[list[float]], list[list[float]]]:
    """(undisturbed, disturbed) milliseconds of each round."""
    words = [r.split() for r in text.split(";")]
    return (
        [[float(w) for w in r if not w.endswith("!")] for r in words],
        [[float(w[:-1]) for w in r if w.endswith("!")] for r in words],
    )
