"""Calls in turns: every round runs a block of calls of each, in an order that moves on."""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

FEWEST_ROUNDS = 5
MOST_CALLS = 400  # of one engine in one round
WARM_UP = 2  # calls of a block that do not count: they fetch the engine's data into the caches
_ESTIMATE_S = 0.02

Call = Callable[[], Any]
Starting = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
    """How much is measured: a number of rounds, or a time.

    Attributes:
        rounds: so many, or as many as fit into `seconds`, at least five.
        seconds: the time of all rounds together; None: no limit, each block has up to
            `block_calls` calls, fewer if they take longer than `block_seconds`; what would take
            more than `engine_seconds` sits out rounds, evenly.
    """

    rounds: int = 50
    seconds: float | None = None
    block_calls: int = 10
    block_seconds: float = 0.02
    engine_seconds: float = 30.0

    def plan(self, estimates: Mapping[str, float]) -> Plan:
        """What to do with calls of `estimates` seconds."""
        if self.seconds is None:
            counts, every = {}, {}
            for name, seconds in estimates.items():
                counts[name] = max(1, min(self.block_calls, int(self.block_seconds / seconds)))
                all_rounds = self.rounds * (WARM_UP + counts[name]) * seconds
                most = max(1, self.rounds // FEWEST_ROUNDS)
                every[name] = min(most, math.ceil(all_rounds / self.engine_seconds))
            return Plan(self.rounds, counts, every)
        round_s = (1 + WARM_UP) * sum(estimates.values())  # with one counted call each
        rounds = max(FEWEST_ROUNDS, min(self.rounds, int(self.seconds / round_s)))
        block = self.seconds / rounds / len(estimates)
        counts = {
            name: max(1, min(MOST_CALLS, int(block / seconds) - WARM_UP))
            for name, seconds in estimates.items()
        }
        return Plan(rounds, counts, dict.fromkeys(estimates, 1))


@dataclass(frozen=True)
class Plan:
    """Rounds, and by name the counted calls of a block and in which rounds it runs: every n-th."""

    rounds: int
    counts: dict[str, int]
    every: dict[str, int]


@dataclass
class Samples:
    """Milliseconds of one engine's calls, by round; disturbed are those during which the system
    gave the core to another process.
    """

    undisturbed: list[list[float]] = field(default_factory=list)
    disturbed: list[list[float]] = field(default_factory=list)


def interleave(
    calls: Mapping[str, Call],
    pace: Pace,
    *,
    settle: float = 0.0,
    starting: Starting = lambda name: None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Samples]:
    """Time all calls in turns.

    Args:
        settle: seconds to wait before each block: threads of the engine before may still spin.
        starting: is told the name of each engine before it runs.
        between: runs before every round.
    """
    names = list(calls)
    plan = pace.plan({name: _estimate(calls[name], starting, name) for name in names})
    samples = {name: Samples() for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(plan.rounds):
            between()
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                if number % plan.every[name]:
                    samples[name].undisturbed.append([])
                    samples[name].disturbed.append([])
                    continue
                starting(name)
                time.sleep(settle)
                _block(calls[name], plan.counts[name], samples[name])
    finally:
        gc.enable()
    return samples


def _estimate(call: Call, starting: Starting, name: str) -> float:
    """Seconds of a call, after some to warm up."""
    starting(name)
    for _ in range(WARM_UP):
        call()
    begin, count = time.perf_counter(), 0
    while count < 2 or (time.perf_counter() - begin < _ESTIMATE_S and count < MOST_CALLS):
        call()
        count += 1
    return (time.perf_counter() - begin) / count


def _block(call: Call, count: int, samples: Samples) -> None:
    clock, good, bad = time.perf_counter_ns, list[float](), list[float]()
    for _ in range(WARM_UP):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    for _ in range(count):
        begin = clock()
        call()
        taken = (clock() - begin) * 1e-6
        after = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        (good if after == before else bad).append(taken)
        before = after
    samples.undisturbed.append(good)
    samples.disturbed.append(bad)
