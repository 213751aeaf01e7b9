"""How good the default knobs are: their time over the best that a search finds.

    python -m edgeconv.benchmarks.default_study -o defaults.json [-n 6] [--classes depthwise,dense]
        [--most 200] [--chosen] [--lock FILE]
    python -m edgeconv.benchmarks.default_study --summary defaults.json

For random layers of every class (`random_layers`), and every schedule family that takes them and is
not estimated to take twice as long as the chosen one (`--chosen`: that one only), all candidates
are compiled and run, or `most` of them, among them those that the estimate ranks best. Kernels run
alone, on one core, called until the clock is precise enough, candidates in turns. Rounds drop
candidates that are far behind; those that remain are timed again beside the default, the winner is
picked on half of the rounds, and the ratio comes from the other half, so that noise does not pick
the winner. Every candidate's output is compared with the default's.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv import strategy
from edgeconv.benchmarks import options, random_layers
from edgeconv.benchmarks.harness import MAX_ERROR, Cores, relative_error
from edgeconv.benchmarks.kernels import Bench, Setting, task_within_network
from edgeconv.benchmarks.random_layers import CLASSES
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.tabulate import Table, milliseconds, together
from edgeconv.errors import EdgeconvError
from edgeconv.schedules import FAMILIES, Family
from edgeconv.targets import Device, host
from edgeconv.workload import ConvTask

PROGRAMME = "default_study"
MOST = 200  # candidates of a family
IN_MODULE = 40  # kernels compiled at once
BLOCK_S = 4e-4  # calls of one candidate in one round take this long
FAR_BEHIND = (3.0, 1.6, 1.25)  # candidates slower than the best by more are dropped, by round
HOPELESS = 2.0  # times the estimate of the strategy's choice; such families are not tried
FINALISTS = 8
FINAL_ROUNDS = 20  # even: half of them pick the winner, half give the ratio


def candidates(
    task: ConvTask, family: Family, device: Device, most: int, seed: int = 0
) -> tuple[list[Any], int]:
    """(knobs to try, the default first; how many there are in all): every legal setting up to
    `most`, else a sample of which the better half by estimate is certain.
    """
    default = family.default_knobs(task, device)
    others = [k for k in dict.fromkeys(family.candidates(task, device)) if k != default]
    total = len(others) + 1
    if total > most:
        others.sort(key=lambda knobs: family.estimate(task, knobs, device))
        certain = (most - 1) // 2
        rest = others[certain:]
        drawn = np.random.default_rng(seed).permutation(len(rest))[: most - 1 - certain]
        others = others[:certain] + [rest[i] for i in sorted(drawn)]
    return [default, *others], total


def block_times(call: Callable[[], None], seconds: float) -> float:
    """Milliseconds of a call, mean over a block of about `seconds`, after one that warms up."""
    begin = time.perf_counter()
    call()
    count = max(1, min(2000, int(seconds / (time.perf_counter() - begin))))
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count * 1e3


def leaders(calls: Sequence[Callable[[], None]], keep: int = FINALISTS) -> list[int]:
    """Numbers of the fastest calls, best first, by rounds that drop who is far behind."""
    alive = list(range(len(calls)))
    best = [float("inf")] * len(calls)
    for far in FAR_BEHIND:
        for i in alive:
            best[i] = min(best[i], block_times(calls[i], BLOCK_S))
        limit = far * min(best[i] for i in alive)
        alive = [i for i in alive if best[i] <= limit]
    return sorted(alive, key=lambda i: best[i])[:keep]


def final(calls: Sequence[Callable[[], None]]) -> list[list[float]]:
    """Milliseconds of each call in each of `FINAL_ROUNDS`, the calls in turns."""
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(FINAL_ROUNDS):
        turn = number % len(calls)
        for i in [*range(turn, len(calls)), *range(turn)]:
            samples[i].append(block_times(calls[i], 4 * BLOCK_S))
    return samples


def verdict(samples: Sequence[Sequence[float]]) -> tuple[int, float, float]:
    """(number of the winner on even rounds, its median and the default's on odd rounds); the
    default is number 0.
    """
    winner = int(np.argmin([np.median(s[0::2]) for s in samples]))
    return winner, float(np.median(samples[winner][1::2])), float(np.median(samples[0][1::2]))


def study(
    task: ConvTask, family: Family, device: Device, most: int, cores: Cores
) -> dict[str, Any]:
    """Default and best knobs of one family on one task.

    Raises:
        EdgeconvError: a candidate computes something else than the default.
    """
    knobs, total = candidates(task, family, device, most)
    settings = [Setting(family, k) for k in knobs]
    bench = Bench(task, device)
    calls: list[Callable[[], None]] = []
    for start in range(0, len(settings), IN_MODULE):
        calls += bench.compile(settings[start : start + IN_MODULE])
    calls[0]()
    wanted = bench.output
    for call, setting in zip(calls, settings, strict=True):
        call()
        error = relative_error([bench.output], [wanted])
        if not error <= MAX_ERROR:
            raise EdgeconvError(f"{task.conv}: {setting}: relative error {error:.1e}")
    with cores.for_measuring():
        found = [i for i in leaders(calls) if i != 0]
    finalists = [0, *found]
    with cores.for_measuring():
        winner, best_ms, default_ms = verdict(final([calls[i] for i in finalists]))
    return {
        "candidates": total,
        "tried": len(knobs),
        "default": str(settings[0]),
        "default_ms": float(f"{default_ms:.5g}"),
        "best": str(settings[finalists[winner]]),
        "best_ms": float(f"{best_ms:.5g}"),
    }


def measure(task: ConvTask, device: Device, most: int, cores: Cores, *, rivals: bool) -> Case:
    """The family that the strategy chooses, and its rivals if asked for, on one task."""
    choice = strategy.choose(task, device)
    found: dict[str, dict[str, Any]] = {}
    hopeless = []
    for family in FAMILIES if rivals else [choice.family]:
        if family.supports(task, device) is not None:
            continue
        knobs = family.default_knobs(task, device)
        if family.estimate(task, knobs, device) > HOPELESS * choice.cycles:
            hopeless.append(family.name)
        else:
            found[family.name] = study(task, family, device, most, cores)
    return {"chosen": choice.family.name, "families": found, "hopeless": hopeless}


def ratios(cases: Mapping[str, Case], family: str | None) -> list[float]:
    """default / best of a family; without one: the strategy's choice / the best of all families."""
    found = []
    for case in cases.values():
        tried = case["families"]
        if family is None:
            own = tried[case["chosen"]]["default_ms"]
            found.append(own / min(t["best_ms"] for t in tried.values()))
        elif family in tried:
            found.append(tried[family]["default_ms"] / tried[family]["best_ms"])
    return found


def tables(content: Mapping[str, Any]) -> list[Table]:
    """Median, 90th percentile and worst by family, and of the strategy as a whole."""
    titles = ["default knobs of", "layers", "default / best, median", "p90", "worst"]
    names: list[str | None] = [f.name for f in FAMILIES]
    rivals = content.get("settings", {}).get("rivals", True)
    others = "the best of all families" if rivals else "other knobs of the same family"
    rows = []
    for name in [*names, None]:
        found = ratios(content["cases"], name)
        if found:
            title = name or f"the strategy's choice, against {others}"
            numbers = (float(np.median(found)), float(np.percentile(found, 90)), max(found))
            rows.append([title, str(len(found)), *(f"{n:.3f}" for n in numbers)])
    return [Table(titles, rows)]


def every(content: Mapping[str, Any]) -> Table:
    """One row for each layer and family."""
    titles = ["layer, family", "chosen", "default / best", "default ms", "best ms", "best knobs"]
    titles += ["candidates", "tried"]
    rows = []
    for key, case in content["cases"].items():
        for family, found in case["families"].items():
            row = [f"{key}, {family}", "yes" if family == case["chosen"] else ""]
            row += [f"{found['default_ms'] / found['best_ms']:.3f}"]
            row += [milliseconds(found["default_ms"]), milliseconds(found["best_ms"])]
            row += [found["best"], str(found["candidates"]), str(found["tried"])]
            rows.append(row)
    return Table(titles, rows)


def summary(content: Mapping[str, Any]) -> str:
    """Markdown of `tables`."""
    return together(tables(content))


def line(key: str, case: Case) -> str:
    """One case for people who watch."""
    parts = [f"{key}: {case['chosen']} chosen"]
    for found in case["families"].values():
        parts.append(
            f"  {found['default_ms'] / found['best_ms']:.3f}  {found['default_ms']:.4g} ms  "
            f"{found['default']}  |  {found['best_ms']:.4g} ms  {found['best']}  "
            f"({found['tried']} of {found['candidates']})"
        )
    return "\n".join(parts)


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file, continued if it exists")
    parser.add_argument("-n", "--count", type=int, default=6, help="layers a class")
    parser.add_argument("--classes", type=options.names, help=", ".join(c.name for c in CLASSES))
    parser.add_argument("--most", type=int, default=MOST, help="candidates of a family")
    parser.add_argument("--chosen", action="store_true", help="leave out families not chosen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lock", type=Path, help="file to hold locked while measuring")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    device, cores = dataclasses.replace(host(), cores=1), Cores(1, chosen.lock)
    settings = {"most": chosen.most, "seed": chosen.seed, "rivals": not chosen.chosen}
    records = Records(chosen.output, PROGRAMME, settings)
    classes = [c for c in CLASSES if not chosen.classes or c.name in chosen.classes]
    for key, layer_class, conv in random_layers.in_turns(classes, chosen.count, chosen.seed):
        if key not in records:
            task = task_within_network(conv, device)
            case = measure(task, device, chosen.most, cores, rivals=not chosen.chosen)
            records.add(key, {"class": layer_class.name, "layer": str(conv), **case})
            print(line(key, case), flush=True)
    print(summary(records.content))


if __name__ == "__main__":
    main()
