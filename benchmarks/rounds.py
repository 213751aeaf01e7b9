"""Calls in turns: every round runs a block of calls of each, in an order that moves on."""

from __future__ import annotations

import gc
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
            `block_calls` calls, fewer if they take longer than `block_seconds`.
    """

    rounds: int = 50
    seconds: float | None = None
    block_calls: int = 10
    block_seconds: float = 0.02

    def plan(self, estimates: Mapping[str, float]) -> tuple[int, dict[str, int]]:
        """(rounds, counted calls of a block by name) for calls of `estimates` seconds."""
        if self.seconds is None:
            counts = {
                name: max(1, min(self.block_calls, int(self.block_seconds / seconds)))
                for name, seconds in estimates.items()
            }
            return self.rounds, counts
        round_s = (1 + WARM_UP) * sum(estimates.values())  # with one counted call each
        rounds = max(FEWEST_ROUNDS, min(self.rounds, int(self.seconds / round_s)))
        block = self.seconds / rounds / len(estimates)
        counts = {
            name: max(1, min(MOST_CALLS, int(block / seconds) - WARM_UP))
            for name, seconds in estimates.items()
        }
        return rounds, counts


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
    rounds, counts = pace.plan({name: _estimate(calls[name], starting, name) for name in names})
    samples = {name: Samples() for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            between()
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                starting(name)
                time.sleep(settle)
                _block(calls[name], counts[name], samples[name])
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
