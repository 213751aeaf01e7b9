"""Whole networks on all engines, as tables; `edgeconv bench nets` measures them too.

    python -m edgeconv.benchmarks.nets [NETWORK...] [-o nets.json] [--threads 1,2]
        [--engines edgeconv,onnxruntime,openvino] [--seconds 15] [--lock FILE]

A network is one of the onnx package's (`shufflenet`, `resnet50` …), a builder of
`edgeconv.benchmarks.models` (`mobilenetv2`, `resnet34_g8` …), or a path to an ONNX file. Each runs
in a process of its own, the engines in turns. Cases already in the file are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from edgeconv.benchmarks import cases, options, running
from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE
from edgeconv.benchmarks.records import Case, Records
from edgeconv.benchmarks.rounds import Pace
from edgeconv.benchmarks.summary import compare, engine_order, faults, geometric_mean, times
from edgeconv.targets import host

PROGRAMME = "nets"
DEFAULT = ("shufflenet", "squeezenet", "resnet50")


def summary(content: Mapping[str, Any]) -> str:
    """Markdown: one table for each number of threads, how more of them help, what failed."""
    measured: dict[str, Case] = content["cases"]
    parts = []
    by_threads: dict[int, list[Case]] = {}
    for case in measured.values():
        by_threads.setdefault(case["threads"], []).append(case)
    for threads, chosen in sorted(by_threads.items()):
        parts.append(f"**{threads} thread{'s' * (threads > 1)}**, median ms\n\n{_table(chosen)}")
    if 1 in by_threads:
        parts += [_scaling(by_threads[1], by_threads[n], n) for n in sorted(by_threads) if n > 1]
    broken = faults({key: {"": case["engines"]} for key, case in measured.items()})
    return "\n".join(parts + ([broken] if broken else []))


def _table(rows: list[Case]) -> str:
    names = engine_order(name for case in rows for name in case["engines"])
    titles = " | ".join(PEERS[name].title for name in names)
    lines = [f"| network | {titles} | fastest other / edgeconv |", "|---|" + "---:|" * len(names)]
    lines[1] += "---:|"
    ratios = []
    for case in rows:
        found = times(case["engines"])
        least = min(found.values(), default=0.0)
        cells = []
        for name in names:
            text = _digits(found[name]) if name in found else "–"
            cells.append(f"**{text}**" if found.get(name) == least else text)
        compared = compare(case["network"], case["engines"])
        if compared is not None:
            ratios.append(compared.ratio)
        cells.append(f"{compared.ratio:.2f}" if compared else "–")
        noisy = " (noisy)" if case.get("noise", {}).get("noisy") else ""
        lines.append(f"| {case['network']}{noisy} | {' | '.join(cells)} |")
    mean = f"{geometric_mean(ratios):.2f}" if ratios else "–"
    lines.append(f"| geometric mean |{' |' * len(names)} {mean} |")
    errors = [(n, [c["engines"].get(n, {}).get("error", 0.0) for c in rows]) for n in names]
    worst = ", ".join(f"{PEERS[n].title} {max(e):.1e}" for n, e in errors if n != REFERENCE)
    if any(case.get("noise", {}).get("noisy") for case in rows):
        lines += ["", "(noisy): the machine was not steady; ratios count more than times there."]
    lines += ["", f"Largest errors, relative to the largest output of ONNX Runtime: {worst}."]
    return "\n".join(lines) + "\n"


def _scaling(alone: list[Case], rows: list[Case], threads: int) -> str:
    """How many times as fast every engine is on `threads` threads as on one."""
    names = engine_order(name for case in rows for name in case["engines"])
    one = {case["network"]: times(case["engines"]) for case in alone}
    lines = [f"| network | {' | '.join(PEERS[n].title for n in names)} |"]
    lines.append("|---|" + "---:|" * len(names))
    for case in rows:
        before, after = one.get(case["network"], {}), times(case["engines"])
        cells = [
            f"{before[n] / after[n]:.2f}" if n in before and n in after else "–" for n in names
        ]
        lines.append(f"| {case['network']} | {' | '.join(cells)} |")
    return f"**{threads} threads**, times as fast as 1\n\n" + "\n".join(lines) + "\n"


def _digits(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


def line(key: str, engines: Mapping[str, Mapping[str, Any]]) -> str:
    """One case for people who watch: median, p10 and p90 of each engine, and its error."""
    lines = [key]
    own = engines.get(OWN, {}).get("median_ms")
    for name in engine_order(engines):
        e = engines[name]
        if "failed" in e:
            lines.append(f"  {PEERS[name].title:16} {e['failed'].splitlines()[0]}")
            continue
        ratio = f"{e['median_ms'] / own:8.2f} x edgeconv" if own else ""
        lines.append(
            f"  {PEERS[name].title:16} {e['median_ms']:9.3f} ms  "
            f"({e['p10_ms']:.3f} to {e['p90_ms']:.3f})  error {e['error']:.1e} {ratio}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(DEFAULT))
    parser.add_argument("--threads", type=options.numbers, default=[1], help="such as 1,2")
    options.add(parser, seconds=15.0)
    chosen = parser.parse_args()
    if not all(1 <= t <= host().cores for t in chosen.threads):
        parser.error(f"--threads is between 1 and {host().cores} on this machine")
    engines = options.engines(parser, chosen)
    pace = Pace(seconds=chosen.seconds)
    method = running.Method(engines, pace, limit=chosen.limit, lock=chosen.lock)
    records = Records(chosen.output, PROGRAMME, method.settings)
    items = [cases.of_network(name, t) for t in chosen.threads for name in chosen.networks]
    running.run(
        records,
        items,
        method,
        done=lambda key, case: print(line(key, case["engines"]), flush=True),
    )
    print("\n" + summary(records.content))


if __name__ == "__main__":
    main()
