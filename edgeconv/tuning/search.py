"""The search for one task: what to measure next, and what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeconv.targets import Device
from edgeconv.tuning.bench import Outcome
from edgeconv.tuning.candidates import Candidate, space
from edgeconv.tuning.cost_model import CostModel
from edgeconv.tuning.features import features
from edgeconv.tuning.keys import task_digest
from edgeconv.workload import Task

EXPLORE = 0.2  # share of a batch that is drawn at random
FIRST_OF_A_FAMILY = 2  # of the first batch, by estimate
GAIN = 0.995  # a candidate improves on another if it takes less than that part of its time


@dataclass(frozen=True)
class Trial:
    """A candidate that was measured, or could not be.

    Attributes:
        ratio: its time over the default's; None if it does not count.
        us: microseconds of a run.
        fault: why it does not count.
    """

    candidate: Candidate
    ratio: float | None
    us: float | None = None
    fault: str = ""

    @staticmethod
    def of(candidate: Candidate, outcome: Outcome) -> Trial:
        """What an outcome says of a candidate."""
        if outcome.fault or not outcome.samples_us:
            return Trial(candidate, None, None, outcome.fault or "not measured")
        us = float(np.median(outcome.samples_us))
        return Trial(candidate, round(outcome.ratio, 5), round(us, 4))  # as in the journal


@dataclass
class Search:
    """All candidates of a task, those that were tried, and the best.

    Attributes:
        trials: in the order they were measured; the default is the first.
        last_gain: number of trials at which the best got better last.
    """

    task: Task
    device: Device
    exact: bool
    seed: int = 0
    trials: list[Trial] = field(default_factory=list)
    last_gain: int = 0

    def __post_init__(self) -> None:
        self.space = space(self.task, self.device, exact=self.exact)
        self.rows = features(self.task, self.device, self.space)
        self._number = {c: i for i, c in enumerate(self.space)}
        self._open = set(range(len(self.space)))
        self.best: Trial | None = None

    @property
    def default(self) -> Candidate:
        """The strategy's choice without records: it is measured with every batch."""
        return self.space[0]

    @property
    def tried(self) -> int:
        """Candidates that were measured or failed."""
        return len(self.trials)

    @property
    def best_ratio(self) -> float:
        """Time of the best over the default's."""
        return 1.0 if self.best is None or self.best.ratio is None else self.best.ratio

    @property
    def is_complete(self) -> bool:
        """Whether everything was tried."""
        return not self._open

    def restrict(self, candidates: Collection[Candidate]) -> None:
        """Propose only some of the candidates (for studies)."""
        wanted = set(candidates)
        self._open = {i for i in self._open if self.space[i] in wanted}

    def add(self, trials: Sequence[Trial], model: CostModel | None = None) -> None:
        """Take note of measurements, and tell the cost model of them."""
        known = [t for t in trials if t.candidate in self._number]
        for trial in known:
            self.trials.append(trial)
            self._open.discard(self._number[trial.candidate])
            if trial.ratio is not None and (
                self.best is None or trial.ratio < GAIN * self.best_ratio
            ):
                self.best, self.last_gain = trial, self.tried
        counted = [t for t in known if t.ratio is not None]
        if model is not None and counted:
            rows = self.rows[[self._number[t.candidate] for t in counted]]
            model.add(rows, [t.ratio for t in counted if t.ratio is not None])

    def propose(self, model: CostModel, count: int) -> list[Candidate]:
        """The next candidates to measure: by the model, some at random; the default first of all.

        The same seed and the same measurements before give the same candidates.
        """
        left = sorted(self._open)
        if not left:
            return []
        chosen: list[int] = []
        if not self.trials:
            chosen = self._first(count)
        text = f"{self.seed} {task_digest(self.task)} {self.tried}"
        rng = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
        rest = [i for i in left if i not in set(chosen)]
        room = min(count - len(chosen), len(rest))
        explored = round(EXPLORE * count) if room else 0
        predicted = model.predict(self.rows[rest])
        order = np.argsort(predicted, kind="stable")
        chosen += [rest[i] for i in order[: max(0, room - explored)]]
        rest = [i for i in rest if i not in set(chosen)]
        drawn = rng.permutation(len(rest))[: max(0, min(count, len(left)) - len(chosen))]
        chosen += [rest[i] for i in drawn]
        return [self.space[i] for i in chosen]

    def _first(self, count: int) -> list[int]:
        """The default, and of every family the best by estimate."""
        chosen = [0]
        for name in dict.fromkeys(c.family for c in self.space):
            own = [
                i for i, c in enumerate(self.space) if c.family == name and i in self._open - {0}
            ]
            chosen += sorted(own, key=lambda i: float(self.rows[i, 0]))[:FIRST_OF_A_FAMILY]
        return chosen[:count]

    def leaders(self, count: int) -> list[Trial]:
        """The fastest that were measured, best first."""
        counted = [t for t in self.trials if t.ratio is not None]
        return sorted(counted, key=lambda t: t.ratio or 0.0)[:count]
