"""Who won: the leaders and the default timed once more in turns, a lucky one does not pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.tuning.bench import Outcome, Plan

PLAN = Plan(rounds=24, block_s=4e-3, drop=False)
LEAST_GAIN = 0.01
CERTAINTY = 2.0  # standard errors


@dataclass(frozen=True)
class Verdict:
    """The result of a final.

    Attributes:
        winner: number of the candidate; that of the reference where no gain exceeds the noise.
        ratio: its time over the reference's, on rounds that did not pick it.
        noise: how much `ratio` may be off.
        median_us, spread_us, default_us: of those rounds.
        rounds: how many.
    """

    winner: int
    ratio: float
    noise: float
    median_us: float
    spread_us: float
    default_us: float
    rounds: int


def decide(outcomes: Sequence[Outcome], numbers: Sequence[int], reference: int) -> Verdict:
    """The fastest of some candidates on even rounds, if it beats the reference on odd ones."""
    able = [i for i in numbers if outcomes[i].samples_us and not outcomes[i].fault]
    own = np.array(outcomes[reference].samples_us)
    best = min(able, key=lambda i: float(np.median((outcomes[i].samples_us / own)[0::2])))
    ratios = (np.array(outcomes[best].samples_us) / own)[1::2]
    ratio = float(np.median(ratios))
    deviation = 1.4826 * float(np.median(np.abs(ratios - ratio)))
    noise = CERTAINTY * 1.2533 * deviation / float(np.sqrt(len(ratios)))
    if best != reference and ratio > 1 - max(LEAST_GAIN, noise):
        best, ratio = reference, 1.0
    samples = np.array(outcomes[best].samples_us)[1::2]
    low, high = np.percentile(samples, [25, 75])
    return Verdict(
        best,
        ratio,
        noise,
        float(np.median(samples)),
        float(high - low),
        float(np.median(own[1::2])),
        len(samples),
    )
