"""Random layers of every class on all engines: where edgeconv is faster, and where it is not.

    python -m edgeconv.benchmarks.layer_classes -o layers.json [-n 60] [--classes depthwise,dense]
        [--engines edgeconv,onnxruntime,tflite] [--seconds 4] [--threads 1] [--lock FILE]
    python -m edgeconv.benchmarks.layer_classes --summary layers.json

Each layer is measured alone (NCHW in and out) and, if its output fits its input, in a chain of four
with weights of their own and ReLU behind each; in the summary a layer that does not fit counts
alone. Cases already in the file are skipped, so a run that stopped goes on where it was. Engines
that are not installed are named, with the command that adds them, and left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeconv.benchmarks import options, random_layers, worker
from edgeconv.benchmarks.peers import PEERS
from edgeconv.benchmarks.random_layers import CLASSES, LayerClass
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.summary import (
    Comparison,
    compare,
    faults,
    geometric_mean,
    losses,
    worst,
)
from edgeconv.workload import Conv2d

PROGRAMME = "layer_classes"
MODES = ("chain", "alone")


def measure(
    conv: Conv2d,
    engines: Sequence[str],
    *,
    threads: int,
    seconds: float,
    limit: float,
    lock: Path | None,
) -> dict[str, Any]:
    """One layer, by mode and engine."""
    models = {"alone": random_layers.alone(conv)}
    if random_layers.chainable(conv):
        models["chain"] = random_layers.chain(conv)
    return worker.run(models, engines, threads=threads, seconds=seconds, limit=limit, lock=lock)


def comparisons(cases: dict[str, Case], class_name: str, mode: str) -> list[Comparison]:
    """edgeconv against the fastest other engine, for all layers of a class."""
    found = []
    for case in cases.values():
        if case["class"] == class_name:
            measured = case["measurements"]
            result = compare(case["layer"], measured.get(mode, measured["alone"]))
            if result is not None:
                found.append(result)
    return found


def summary(content: Mapping[str, Any]) -> str:
    """Markdown: a table of classes, then the losses, then what failed."""
    cases: dict[str, Case] = content["cases"]
    rows = [
        "| class | layers | mode | geometric mean of fastest other / edgeconv | worst | losses |",
        "|---|---:|---|---:|---:|---:|",
    ]
    lost: list[str] = []
    for layer_class in CLASSES:
        for mode in MODES:
            found = comparisons(cases, layer_class.name, mode)
            least = worst(found)
            if least is None:
                continue
            mean = geometric_mean(c.ratio for c in found)
            below = losses(found)
            rows.append(
                f"| {layer_class.title} | {len(found)} | {mode} | {mean:.2f} "
                f"| {least.ratio:.2f} | {len(below)} |"
            )
            lost += [
                f"- {mode}: `{c.case}`: {c.ratio:.2f} ({PEERS[c.peer].title} {c.peer_ms:.4g} ms, "
                f"edgeconv {c.own_ms:.4g} ms)"
                for c in below
            ]
    text = "\n".join(rows) + "\n"
    if lost:
        text += "\nLayers on which another engine is faster:\n\n" + "\n".join(lost) + "\n"
    broken = faults({key: case["measurements"] for key, case in cases.items()})
    if broken:
        text += "\n" + broken
    return text


def line(key: str, measured: dict[str, Any]) -> str:
    """One case for people who watch."""
    parts = [key]
    for mode, engines in measured.items():
        found = compare(key, engines)
        times = " ".join(
            f"{name}={e['median_ms']:.4g}" if "median_ms" in e else f"{name}=failed"
            for name, e in engines.items()
        )
        parts.append(f"  {mode:5} r={found.ratio if found else float('nan'):.2f}  {times}")
    return "\n".join(parts)


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--count", type=int, default=60, help="layers a class")
    parser.add_argument("--classes", type=options.names, help=", ".join(c.name for c in CLASSES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    options.add(parser, seconds=4.0)
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    known = [c.name for c in CLASSES]
    if not set(chosen.classes or known) <= set(known):
        parser.error(f"the classes are {', '.join(known)}")
    engines = options.engines(parser, chosen)
    settings = {"threads": chosen.threads, "seconds": chosen.seconds, "seed": chosen.seed}
    records = Records(chosen.output, PROGRAMME, {**settings, "engines": engines})
    _run(records, [c for c in CLASSES if c.name in (chosen.classes or known)], engines, chosen)
    print(summary(records.content))


def _run(
    records: Records, classes: list[LayerClass], engines: list[str], chosen: argparse.Namespace
) -> None:
    for key, layer_class, conv in random_layers.in_turns(classes, chosen.count, chosen.seed):
        if key in records:
            continue
        measured = measure(
            conv,
            engines,
            threads=chosen.threads,
            seconds=chosen.seconds,
            limit=chosen.limit,
            lock=chosen.lock,
        )
        case = {"class": layer_class.name, "layer": str(conv), "flops": 2 * conv.macs}
        records.add(key, {**case, "measurements": measured})
        print(line(key, measured), flush=True)


if __name__ == "__main__":
    main()
