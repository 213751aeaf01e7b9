"""What to tune: the distinct convolutions and pools of a network, which of them, and how long."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import tvm

from edgeconv import build
from edgeconv.errors import EdgeconvError
from edgeconv.graph.ir import Graph
from edgeconv.schedules import FAMILIES
from edgeconv.schedules.pairs import PAIRS
from edgeconv.targets import Device
from edgeconv.tuning import keys
from edgeconv.tuning.families import POOLING, Schedule
from edgeconv.workload import PairTask, PoolTask, Task

TRIALS, EARLY_STOP, BATCH = 200, 64, 16


@dataclass(frozen=True)
class Options:
    """How a network is tuned.

    Attributes:
        trials: most candidates of a task.
        budget_s: seconds for all of it, earlier runs of the same command included; None: no limit.
        early_stop: a task ends when so many trials in a row brought nothing.
        seed: of what is drawn at random.
        exact: no families with other rounding (Winograd).
        tasks: only these, by number ("2", "4-6") or by a layer's name ("conv1*"); empty: all.
        again: also tasks that have records already.
    """

    trials: int = TRIALS
    budget_s: float | None = None
    early_stop: int = EARLY_STOP
    seed: int = 0
    exact: bool = False
    tasks: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Item:
    """A distinct convolution of the network, or two as one kernel, or a pool.

    Attributes:
        number: in the order of the network, from 1.
        task: for the strategy.
        layers: names of the layers that are it, in order.
        offered: two layers that are two kernels by default, and have tasks of their own.
    """

    number: int
    task: Task
    layers: tuple[str, ...]
    offered: bool = False

    @property
    def name(self) -> str:
        """For tables: the first layer, and how many more there are."""
        more = len(self.layers) - 1
        return self.layers[0] + (f" +{more}" if more else "")

    @property
    def workload(self) -> str:
        """In the shape grammar, with what is fused."""
        return self.task.text


def items(graph: Graph, device: Device, threads: int) -> list[Item]:
    """The distinct convolutions and pools of a network (which is changed), then the pairs that may
    be faster in one kernel.

    Raises:
        EdgeconvError: it has none.
    """
    offers = build.offered_pairs(graph.copy(), device, threads)
    found: dict[Task, list[str]] = {}
    for layer, task in build.tunable_tasks(graph, device, threads):
        found.setdefault(task, []).append(layer)
    if not found:
        raise EdgeconvError("the network has no convolutions or pools: there is nothing to tune")
    own = len(found)
    for layer, pair in offers:
        found.setdefault(pair, []).append(layer)
    return [Item(n, t, tuple(names), n > own) for n, (t, names) in enumerate(found.items(), 1)]


def select(every: Sequence[Item], wanted: Sequence[str]) -> list[Item]:
    """The items that patterns name; all without patterns.

    Raises:
        EdgeconvError: a pattern names none.
    """
    chosen: set[int] = set()
    for pattern in wanted:
        hits = {i.number for i in every if _fits(i, pattern)}
        if not hits:
            known = "; ".join(f"{i.number}: {i.name}" for i in every)
            raise EdgeconvError(f"no task is called '{pattern}'; the tasks are {known}")
        chosen |= hits
    return [i for i in every if i.number in chosen or not wanted]


def _fits(item: Item, pattern: str) -> bool:
    first, dash, last = pattern.partition("-")
    if first.isdigit() and (not dash or last.isdigit()):
        return int(first) <= item.number <= int(last or first)
    return any(fnmatch.fnmatchcase(name, pattern) for name in item.layers)


def run_key(every: Sequence[Item], device: Device, options: Options) -> str:
    """What makes a command the same command: goes on with what an earlier one has done."""
    families: list[Schedule] = [*FAMILIES]
    if any(isinstance(i.task, PairTask) for i in every):
        families += PAIRS
    if any(isinstance(i.task, PoolTask) for i in every):
        families.append(POOLING)
    return keys.digest(
        {
            "tasks": [[keys.task_digest(i.task), len(i.layers)] for i in every],
            "profile": keys.profile_digest(device),
            "threads": device.cores,
            "sources": [keys.source_hash(f) for f in families],
            "tvm": tvm.__version__,
            "seed": options.seed,
            "exact": options.exact,
            "again": options.again,
        }
    )


def with_threads(device: Device, threads: int) -> Device:
    """The device as the strategy sees it when a network is compiled for some threads."""
    return dataclasses.replace(device, cores=threads)
