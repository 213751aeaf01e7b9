"""Tunes the kernels of a network: search, finals, records; it goes on where it was killed.

Each batch of candidates goes to the task where the most can be gained: by its share of the
network's time, and by what its last batches brought. All that is measured is in the journal before
the next batch begins; a task's record is written after its final.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tvm

from edgeconv.errors import EdgeconvError
from edgeconv.targets import Device
from edgeconv.tuning import keys, plan, records, renewal, verdict
from edgeconv.tuning.bench import Outcome, Plan
from edgeconv.tuning.candidates import Candidate, default
from edgeconv.tuning.cost_model import CostModel
from edgeconv.tuning.journal import Journal, trials_from_json, trials_json
from edgeconv.tuning.plan import BATCH, Item, Options
from edgeconv.tuning.record import Record
from edgeconv.tuning.runner import Runner
from edgeconv.tuning.search import Search, Trial
from edgeconv.version import __version__

LEADERS, EXACT_LEADERS = 4, 2  # in a final
FINAL_S = 3.0  # a guess, until one was measured
NETWORK_S = 10.0  # likewise for the comparison of the whole network
RESERVED = 0.5  # of the budget at most is kept for finals
POTENTIAL = 0.3  # gain a task may still hold that was hardly searched
FAILED_BATCHES = 3  # in a row without a single result: something else is wrong


class TuningFailed(EdgeconvError):
    """Nothing could be measured."""


@dataclass
class TaskState:
    """One task of the network, and how far its search is.

    Attributes:
        default_us, default_spread_us: time of the default knobs; None until it was measured.
        gains: what each batch brought: the best ratio before it over that after it, minus one.
        fault: why it can't be tuned.
        record: what was found, once its final is over.
        final_at: number of trials its last final knew.
        skipped: it has a record from earlier, and keeps it.
    """

    item: Item
    search: Search
    default_us: float | None = None
    default_spread_us: float = 0.0
    gains: list[float] = field(default_factory=list)
    fault: str = ""
    record: Record | None = None
    final_at: int = 0
    skipped: bool = False

    @property
    def weight_us(self) -> float:
        """Time of all its layers with default knobs; 0 if unknown."""
        return (self.default_us or 0.0) * len(self.item.layers)

    @property
    def failures(self) -> list[Trial]:
        """Trials that do not count."""
        return [t for t in self.search.trials if t.ratio is None]

    @property
    def best_ratio(self) -> float:
        """Time of the best over the default's: of the final, if it is over."""
        if self.record is not None and (self.skipped or self.final_at == self.search.tried):
            return self.record.median_us / self.record.default_us
        return self.search.best_ratio


def _may_gain(state: TaskState) -> bool:
    """Whether a final could find anything but the default."""
    return state.search.best_ratio <= 1 - verdict.LEAST_GAIN


Watch = Callable[["Tuner"], None]


class Tuner:
    """One run; see the module.

    Attributes:
        states: the tasks, in the order of the network.
        now: what is being done, for people who watch.
        resumed: seconds earlier runs of the same command took.
        faults: sentences about lines of records and of the journal that were skipped.
    """

    def __init__(
        self,
        every: Sequence[Item],
        device: Device,
        options: Options,
        runner: Runner,
        folder: Path,
        *,
        cpu_model: str = "",
        cores: int = 1,
        watch: Watch = lambda tuner: None,
    ) -> None:
        """Prepare a run on `device.cores` threads; records go to `folder`.

        Raises:
            EdgeconvError: no such task, or the same command is running already.
        """
        self.device, self.options, self.runner, self.folder = device, options, runner, folder
        self.cpu_model, self.cores, self.watch = cpu_model, cores, watch
        self.model = CostModel(options.seed)
        chosen = plan.select(every, options.tasks)
        self.states = [
            TaskState(i, Search(i.task, device, options.exact, options.seed)) for i in chosen
        ]
        key = plan.run_key(every, device, options)
        self.journal = Journal(folder / ".journal" / keys.folder_of(device) / f"{key}.jsonl")
        if options.again and self.journal.of("done"):
            self.journal.restart()
        self.now = ""
        self.resumed = self.journal.spent
        self._start = time.monotonic()
        self._batch_s: list[float] = []
        if batches := self.journal.of("batch"):
            self._batch_s.append(float(batches[-1]["spent"]) / len(batches))
        self._final_s: list[float] = []
        self._barren = 0
        self.faults: list[str] = []
        if count := self.journal.damaged:
            self.faults.append(f"{self.journal.path}: damaged lines skipped: {count}")
        self._restore()

    # state

    @property
    def spent(self) -> float:
        """Seconds of this run and of those it goes on from."""
        return self.resumed + time.monotonic() - self._start

    @property
    def trials(self) -> int:
        """Candidates measured or failed."""
        return sum(s.search.tried for s in self.states)

    def share(self, state: TaskState) -> float:
        """Part of the time of all tasks, with default knobs."""
        total = sum(s.weight_us for s in self.states if not s.item.offered)
        return state.weight_us / total if total else 0.0

    @property
    def speedup(self) -> float:
        """Of the tasks measured so far, together, as measured alone."""
        own = [s for s in self.states if not s.item.offered]
        before = sum(s.weight_us for s in own)
        after = sum(s.weight_us * s.best_ratio for s in own)
        return before / after if after else 1.0

    def is_done(self, state: TaskState) -> bool:
        """Whether the search of a task is over."""
        search, options = state.search, self.options
        return (
            state.skipped
            or bool(state.fault)
            or search.is_complete
            or search.tried >= options.trials
            or search.tried - max(search.last_gain, 1) >= options.early_stop
        )

    @property
    def eta_s(self) -> float:
        """Seconds until the run is over, at most: by trials that are left, or by the budget."""
        batch = sum(self._batch_s) / len(self._batch_s) if self._batch_s else 5.0
        left = sum(
            min(self.options.trials, len(s.search.space)) - s.search.tried
            for s in self.states
            if not self.is_done(s)
        )
        seconds = batch * -(-left // BATCH) + self._finals_s() + NETWORK_S
        if self.options.budget_s is not None:
            seconds = min(seconds, max(0.0, self.options.budget_s - self.spent))
        return seconds

    # the run

    def run(self) -> None:
        """Search until trials, patience or budget end, then hold the finals.

        Raises:
            TuningFailed: nothing could be measured.
            DeviceLost: there is nothing left to measure on.
        """
        while (state := self._next()) is not None:
            self._batch(state)
        for state in sorted(self.states, key=self.share, reverse=True):
            if state.search.tried <= state.final_at or state.fault or state.skipped:
                continue
            if not _may_gain(state):
                self._conclude(state, [self._default_record(state)])
            elif not self._is_over() or not any(s.record for s in self.states):
                self._final(state)
        if not any(s.record is not None for s in self.states):
            raise TuningFailed(self._why_nothing())

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()

    def _restore(self) -> None:
        """Take up what the journal knows."""
        by_digest = {keys.task_digest(s.item.task): s for s in self.states}
        for entry in self.journal.entries:
            state = by_digest.get(str(entry.get("task")))
            if state is None:
                continue
            if entry["kind"] == "batch":
                state.default_spread_us = float(entry.get("default_spread_us", 0.0))
                self._note(state, trials_from_json(entry["trials"]), entry["default_us"])
            elif entry["kind"] == "final":
                state.final_at = int(entry["tried"])
        known = records.load(self.device, [self.folder])
        for state in self.states:
            found = known.record(state.item.task, self.device, self.options.exact)
            if state.final_at:
                state.record = found
                state.final_at *= found is not None  # somebody has removed it
            elif found is not None and not state.search.trials and not self.options.again:
                enough = min(self.options.trials, self.options.early_stop, len(state.search.space))
                if found.trials >= enough:
                    state.record, state.skipped = found, True
                    state.default_us = found.default_us
        self.faults += map(str, known.faults)

    def _next(self) -> TaskState | None:
        """The task whose next batch promises most; None when the search is over."""
        open_ = [s for s in self.states if not self.is_done(s)]
        budget = self.options.budget_s
        if budget is not None and open_:
            batch = sum(self._batch_s) / len(self._batch_s) if self._batch_s else 0.0
            after = min(self._finals_s() + NETWORK_S, RESERVED * budget)
            if self.spent + batch + after > budget:
                return None
        return max(open_, key=self._promise, default=None)

    def _promise(self, state: TaskState) -> tuple[bool, float]:
        """Tasks never measured first, the most work in front; then time times expected gain."""
        if state.default_us is None:
            search = state.search
            cycles = search.default.estimate(search.task, self.device)
            return True, cycles * len(state.item.layers)
        recent = state.gains[-2:]
        expected = max(0.5 * max(recent), POTENTIAL * 0.5 ** len(state.gains))
        expected = max(expected, 0.02 * 0.7 ** (len(state.gains) - 2))
        return False, state.weight_us * state.best_ratio * expected

    def _batch(self, state: TaskState) -> None:
        search, begin = state.search, time.monotonic()
        self.now = f"{state.item.name}: {state.item.workload}"
        self.watch(self)
        count = min(BATCH, self.options.trials - search.tried)
        chosen = search.propose(self.model, max(1, count))
        wanted = list(dict.fromkeys([search.default, *chosen]))
        outcomes = self.runner.run(search.task, self.device, wanted, Plan())
        reference = Trial.of(search.default, outcomes[0])
        if reference.ratio is None:
            chosen, outcomes = [search.default], outcomes[:1]
        by_candidate = dict(zip(wanted, outcomes, strict=False))
        trials = [Trial.of(c, by_candidate[c]) for c in chosen]
        self._batch_s.append(time.monotonic() - begin)
        samples = outcomes[0].samples_us or (0.0,)
        low, high = np.percentile(samples, [25, 75])
        state.default_spread_us = round(float(high - low), 4)
        self.journal.add(
            "batch",
            task=keys.task_digest(search.task),
            default_us=reference.us,
            default_spread_us=state.default_spread_us,
            trials=trials_json(trials),
            spent=round(self.spent, 3),
        )
        self._note(state, trials, reference.us)
        self._barren = 0 if any(t.ratio is not None for t in trials) else self._barren + 1
        self.watch(self)
        if self._barren >= FAILED_BATCHES and not any(s.default_us for s in self.states):
            raise TuningFailed(self._why_nothing())

    def _note(self, state: TaskState, trials: Sequence[Trial], default_us: float | None) -> None:
        before = state.search.best_ratio
        state.search.add(trials, self.model)
        if default_us is None:
            fault = next((t.fault for t in trials if t.fault), "no reason given")
            state.fault = f"the default knobs failed: {fault}"
            return
        state.default_us = min(default_us, state.default_us or default_us)
        state.gains.append(before / state.search.best_ratio - 1)

    def _finals_s(self) -> float:
        """Seconds that the finals to come will take: each about as long as a batch."""
        known = self._final_s or self._batch_s
        each = sum(known) / len(known) if known else FINAL_S
        return each * sum(
            s.search.tried > s.final_at and not s.fault and _may_gain(s) for s in self.states
        )

    # finals

    def _final(self, state: TaskState) -> None:
        begin, search = time.monotonic(), state.search
        self.now = f"final of {state.item.name}"
        self.watch(self)
        finalists = self._finalists(search)
        outcomes = self.runner.run(search.task, self.device, finalists, verdict.PLAN)
        if outcomes[0].fault or not outcomes[0].samples_us:
            state.fault = f"the default knobs failed: {outcomes[0].fault}"
            return
        self._final_s.append(time.monotonic() - begin)
        self._conclude(state, self._verdicts(state, finalists, outcomes))

    def _conclude(self, state: TaskState, found: Sequence[Record]) -> None:
        """Keep what was found, and say so in the journal."""
        for record in found:
            records.append(self.folder, record)
            if state.record is None or record.numerics != "exact" or self.options.exact:
                state.record = record
        state.final_at = state.search.tried
        self.journal.add(
            "final",
            task=keys.task_digest(state.item.task),
            tried=state.search.tried,
            spent=round(self.spent, 3),
        )
        self.watch(self)

    def _finalists(self, search: Search) -> list[Candidate]:
        """The default, the leaders, and where Winograd leads, the best without it."""
        found = [search.default, *(t.candidate for t in search.leaders(LEADERS))]
        if any(not c.of.exact for c in found):
            found.append(default(search.task, self.device, exact=True))
            exact = [t.candidate for t in search.leaders(search.tried) if t.candidate.of.exact]
            found += exact[:EXACT_LEADERS]
        return list(dict.fromkeys(found))

    def _verdicts(
        self, state: TaskState, finalists: list[Candidate], outcomes: Sequence[Outcome]
    ) -> list[Record]:
        """The record of the winner; if it is not exact, also that of the best that is."""
        everyone = range(len(finalists))
        numerics = "exact" if self.options.exact else "fast"
        made = [self._record(state, finalists, verdict.decide(outcomes, everyone, 0), numerics)]
        if not finalists[verdict.decide(outcomes, everyone, 0).winner].of.exact:
            exact = [i for i in everyone if finalists[i].of.exact and outcomes[i].samples_us]
            reference = finalists.index(default(state.item.task, self.device, exact=True))
            if reference in exact:
                found = verdict.decide(outcomes, exact, reference)
                if found.winner == reference:
                    return made
                made.append(self._record(state, finalists, found, "exact"))
        return made

    def _record(
        self,
        state: TaskState,
        finalists: Sequence[Candidate],
        found: verdict.Verdict,
        numerics: str,
    ) -> Record:
        winner = finalists[found.winner]
        return Record(
            task=state.item.task,
            family=winner.family,
            knobs=winner.knobs,
            median_us=round(found.median_us, 4),
            spread_us=round(found.spread_us, 4),
            default_us=round(found.default_us, 4),
            repeats=found.rounds,
            trials=state.search.tried,
            numerics=numerics,
            folder=keys.folder_of(self.device),
            profile=keys.profile(self.device),
            cpu_model=self.cpu_model,
            cores=self.cores,
            threads=self.device.cores,
            edgeconv=__version__,
            tvm=tvm.__version__,
            source=keys.source_hash(winner.of),
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            kernel=renewal.kernel_digest(state.item.task, self.device, winner),
        )

    def keep_default(self, state: TaskState) -> None:
        """Take a record back: in the network, its knobs are slower than the default's."""
        state.record = self._default_record(state)
        records.append(self.folder, state.record)

    def _default_record(self, state: TaskState) -> Record:
        """The default knobs, as the last batch measured them."""
        us, rounds = state.default_us or 0.0, Plan().rounds
        found = verdict.Verdict(0, 1.0, 0.0, us, state.default_spread_us, us, rounds)
        numerics = "exact" if self.options.exact else "fast"
        return self._record(state, [state.search.default], found, numerics)

    def _is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.options.budget_s is not None and self.spent > self.options.budget_s

    def _why_nothing(self) -> str:
        reasons = [f"{s.item.name}: {s.fault}" for s in self.states if s.fault]
        if not reasons:
            return "nothing was measured: the budget is too small for a single batch"
        return "nothing could be measured:\n  " + "\n  ".join(reasons[:5])
