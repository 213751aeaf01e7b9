"""How much tuning gains, and how fast the search finds it: sweeps of random layers, replayed.

    python -m edgeconv.benchmarks.tuning_study -o tuning.json [-n 8] [--classes depthwise,dense]
        [--most 400] [--lock FILE]
    python -m edgeconv.benchmarks.tuning_study --summary tuning.json

For random layers of every class, all candidates of all families that take them are checked and
timed as `edgeconv tune` does it, or `most` of them, among them those that the estimate ranks best.
The fastest are timed once more, in turns with the default. On the table of these times the search
is replayed with several seeds, guided by the cost model and purely at random: it sees the first
times, and is judged by the second ones of the candidates it would send to a final.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks import options, random_layers
from edgeconv.benchmarks.kernels import task_within_network
from edgeconv.benchmarks.random_layers import CLASSES
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.summary import geometric_mean
from edgeconv.benchmarks.tabulate import Table, together
from edgeconv.errors import EdgeconvError
from edgeconv.targets import Device, host
from edgeconv.tuning.bench import Plan
from edgeconv.tuning.candidates import Candidate, space
from edgeconv.tuning.cost_model import CostModel
from edgeconv.tuning.plan import BATCH
from edgeconv.tuning.runner import ProcessRunner
from edgeconv.tuning.search import Search, Trial
from edgeconv.tuning.tuner import LEADERS
from edgeconv.tuning.verdict import PLAN
from edgeconv.workload import ConvTask

PROGRAMME = "tuning_study"
MOST = 400  # candidates of a layer
REFINED = 24  # of the fastest are timed twice
SEEDS = 5
SEARCHES = ("xgboost", "random")
POINTS = (1, 4, 8, 16, 32, 48, 64, 80, 100, 150, 200)  # trials
HEADROOM = 0.02  # below it there is nothing to find
GOOD = (0.8, 0.9, 0.95)  # parts of the headroom, for "trials until"


def chosen_candidates(task: ConvTask, device: Device, most: int, seed: int) -> list[Candidate]:
    """All candidates, or a sample: the better half by estimate is certain."""
    found = space(task, device, exact=False)
    if len(found) <= most:
        return found
    rest = sorted(found[1:], key=lambda c: c.estimate(task, device))
    certain = (most - 1) // 2
    drawn = np.random.default_rng(seed).permutation(len(rest) - certain)[: most - 1 - certain]
    return [found[0], *rest[:certain], *(rest[certain + i] for i in sorted(drawn))]


def sweep(
    task: ConvTask, device: Device, candidates: Sequence[Candidate], runner: ProcessRunner
) -> tuple[dict[Candidate, float], dict[Candidate, float], list[str]]:
    """(times over the default's, those of the fastest measured again, faults)."""
    first, faults = {candidates[0]: 1.0}, []
    for start in range(1, len(candidates), BATCH):
        batch = [candidates[0], *candidates[start : start + BATCH]]
        outcomes = runner.run(task, device, batch, Plan())
        for candidate, outcome in zip(batch[1:], outcomes[1:], strict=True):
            if outcome.fault or not outcome.samples_us:
                faults.append(f"{candidate}: {outcome.fault}")
            else:
                first[candidate] = outcome.ratio
    leaders = sorted(first, key=lambda c: first[c])[:REFINED]
    finalists = list(dict.fromkeys([candidates[0], *leaders]))
    outcomes = runner.run(task, device, finalists, dataclasses.replace(PLAN, rounds=15))
    if not outcomes[0].samples_us:
        raise EdgeconvError(f"{task.conv}: the default failed: {outcomes[0].fault}")
    second = {
        c: o.ratio for c, o in zip(finalists, outcomes, strict=True) if o.samples_us and not o.fault
    }
    return first, {c: second.get(c, r) for c, r in first.items()}, faults


def replay(
    task: ConvTask,
    device: Device,
    seen: Mapping[Candidate, float],
    true: Mapping[Candidate, float],
    seed: int,
    guided: bool,
) -> list[float]:
    """Time over the default's of what would be kept, after each of `POINTS` trials."""
    order: list[Candidate] = []
    if guided:
        search, model = Search(task, device, False, seed), CostModel(seed)
        search.restrict(seen.keys())
        while not search.is_complete and len(order) < max(POINTS):
            chosen = search.propose(model, BATCH)
            order += chosen
            search.add([Trial(c, seen[c]) for c in chosen], model)
    else:
        default, *others = seen
        drawn = np.random.default_rng(seed).permutation(len(others))
        order = [default, *(others[i] for i in drawn)]
    found = []
    for count in POINTS:
        leaders = sorted(order[:count], key=lambda c: seen[c])[:LEADERS]
        found.append(min(1.0, *(true[c] for c in leaders)))
    return found


def measure(task: ConvTask, device: Device, most: int, runner: ProcessRunner, seed: int) -> Case:
    """Sweep and replays of one layer."""
    candidates = chosen_candidates(task, device, most, seed)
    seen, true, faults = sweep(task, device, candidates, runner)
    best = min(true, key=lambda c: true[c])
    curves = {
        name: [
            [round(r, 5) for r in replay(task, device, seen, true, s, name == "xgboost")]
            for s in range(SEEDS)
        ]
        for name in SEARCHES
    }
    return {
        "candidates": len(space(task, device, exact=False)),
        "tried": len(seen),
        "faults": faults,
        "default": str(candidates[0]),
        "best": str(best),
        "best_ratio": round(true[best], 5),
        "curves": curves,
    }


def gains(case: Case, search: str) -> np.ndarray:
    """Part of the headroom that was found at each of `POINTS`, mean over the seeds."""
    head = 1 / case["best_ratio"] - 1
    return np.mean(1 / np.array(case["curves"][search]) - 1, axis=0) / head


def tables(content: Mapping[str, Any]) -> list[Table]:
    """What there is to find by class, what is found of it by trials, and trials until parts of it.

    The last two are means and medians over the layers with a headroom.
    """
    cases = list(content["cases"].values())
    able = [c for c in cases if 1 / c["best_ratio"] - 1 >= HEADROOM]
    found = [_by_class(cases)]
    if able:
        found += [_by_trials(able), _trials_until(able)]
    return found


def _by_class(cases: Sequence[Case]) -> Table:
    titles = ["class", "layers", f"headroom of {HEADROOM:.0%} or more"]
    titles += ["default / best time, geometric mean", "most"]
    rows = []
    for name in (*dict.fromkeys(c["class"] for c in cases), None):
        speeds = [1 / c["best_ratio"] for c in cases if name in (None, c["class"])]
        if speeds:
            many = sum(s - 1 >= HEADROOM for s in speeds)
            row = [name or "all", str(len(speeds)), str(many)]
            rows.append([*row, f"{geometric_mean(speeds):.3f}", f"{max(speeds):.3f}"])
    return Table(titles, rows)


def _by_trials(able: Sequence[Case]) -> Table:
    """Mean gain after so many trials over the mean gain there is."""
    best = geometric_mean(1 / c["best_ratio"] for c in able)
    table = Table(["part of the headroom after trials", *map(str, POINTS)], [])
    for name in SEARCHES:
        logs = np.mean([np.mean(np.log(1 / np.array(c["curves"][name])), 0) for c in able], 0)
        table.rows.append([name, *(f"{(np.exp(g) - 1) / (best - 1):.0%}" for g in logs)])
    return table


def _trials_until(able: Sequence[Case]) -> Table:
    table = Table(["trials until a part of the headroom, median", *(f"{g:.0%}" for g in GOOD)], [])
    for name in SEARCHES:
        until = [float(np.median([_until(gains(c, name), g) for c in able])) for g in GOOD]
        never = f"more than {POINTS[-1]}"
        table.rows.append([name, *(f"{u:.0f}" if np.isfinite(u) else never for u in until)])
    return table


def every(content: Mapping[str, Any]) -> Table:
    """One row a layer."""
    titles = ["layer", "default / best time", "default", "best", "candidates", "tried", "failed"]
    rows = []
    for key, c in content["cases"].items():
        row = [key, f"{1 / c['best_ratio']:.3f}", c["default"], c["best"]]
        rows.append([*row, str(c["candidates"]), str(c["tried"]), str(len(c["faults"]))])
    return Table(titles, rows)


def dots(content: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """(layer, default / best time) by class."""
    found: dict[str, list[tuple[str, float]]] = {}
    for case in content["cases"].values():
        title = case["class"].replace("_", ", ")
        found.setdefault(title, []).append((case["layer"], 1 / case["best_ratio"]))
    return found


def summary(content: Mapping[str, Any]) -> str:
    """Markdown of `tables`."""
    return together(tables(content))


def _until(parts: np.ndarray, wanted: float) -> float:
    reached = np.nonzero(parts >= wanted)[0]
    return float(POINTS[reached[0]]) if len(reached) else float("inf")


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file, continued if it exists")
    parser.add_argument("-n", "--count", type=int, default=8, help="layers a class")
    parser.add_argument("--classes", type=options.names, help=", ".join(c.name for c in CLASSES))
    parser.add_argument("--most", type=int, default=MOST, help="candidates of a layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lock", type=Path, help="file to hold locked while measuring")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    device = dataclasses.replace(host(), cores=1)
    records = Records(chosen.output, PROGRAMME, {"most": chosen.most, "seed": chosen.seed})
    classes = [c for c in CLASSES if not chosen.classes or c.name in chosen.classes]
    runner = ProcessRunner(1, lock=chosen.lock)
    for key, layer_class, conv in random_layers.in_turns(classes, chosen.count, chosen.seed):
        if key not in records:
            task = task_within_network(conv, device)
            case = measure(task, device, chosen.most, runner, chosen.seed)
            records.add(key, {"class": layer_class.name, "layer": str(conv), **case})
            print(f"{key}: {1 / case['best_ratio']:.3f}  {case['best']}", flush=True)
    runner.close()
    print(summary(records.content))


if __name__ == "__main__":
    main()
