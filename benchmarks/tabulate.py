"""Results as rows: one table for people, one row an engine for spreadsheets, one for Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeconv.benchmarks.peers import OWN, PEERS
from edgeconv.benchmarks.records import Case
from edgeconv.benchmarks.summary import Engines, engine_order, fastest_other, ratio_to_own

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Titles and rows of text; the first column is a name, all others are numbers."""

    titles: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [self.titles, ["---", *["---:"] * (len(self.titles) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def together(tables: Iterable[Table]) -> str:
    """Markdown of several tables."""
    return "\n".join(table.markdown() for table in tables)


def measurements(case: Case) -> dict[str, Engines]:
    """The engines of a case by mode; older programmes measured a layer in two modes at once."""
    if "measurements" in case:
        found: dict[str, Engines] = case["measurements"]
        return found
    return {case.get("mode", ""): case.get("engines", {})}


def peak_of(content: Mapping[str, Any], case: Case) -> float | None:
    """Multiply-add peak, GFLOP/s, of the threads a case ran on."""
    if "board" in case:
        one = case["board"].get("peak_gflops_one_core")
        return None if one is None else float(one) * int(case.get("threads", 1))
    sessions = content["sessions"]
    number = case.get("session", 0)
    if number >= len(sessions):
        return None
    return float(sessions[number]["peak_gflops_one_core"]) * int(case.get("threads", 1))


def boards(content: Mapping[str, Any]) -> list[str]:
    """What the cases ran on that did not run where they were measured from."""
    found = [c["board"] for c in content["cases"].values() if "board" in c]
    return list(dict.fromkeys(_board(b) for b in found))


def _board(facts: Mapping[str, Any]) -> str:
    model = f"{facts['model']}, " if facts["model"] not in ("", facts["cpu"]) else ""
    return f"{model}{facts['cpu']}, {facts['cores']} cores, compiled for {facts['target']}"


def name_of(key: str, case: Case) -> str:
    """What a case is called in a table: the key, without what every row would repeat."""
    return key.removesuffix(", 1 thread")


def overview(content: Mapping[str, Any], keys: Sequence[str]) -> Table:
    """Medians of all engines, fastest other / edgeconv with its interval, and edgeconv's speed."""
    cases: dict[str, Case] = {key: content["cases"][key] for key in keys}
    names = engine_order(n for c in cases.values() for e in measurements(c).values() for n in e)
    titles = ["case, ms", *(PEERS[n].title for n in names), "fastest other / edgeconv", "interval"]
    titles += ["GFLOP/s", "% of peak", "MiB moved"]
    rows = []
    for key, case in cases.items():
        for engines in measurements(case).values():
            ratio, interval = against_fastest(engines)
            rows.append(
                [
                    name_of(key, case) + (" (noisy)" if case.get("noise", {}).get("noisy") else ""),
                    *(milliseconds(engines.get(n, {}).get("median_ms")) for n in names),
                    ratio,
                    interval,
                    *_speed(content, case, engines),
                ]
            )
    return Table(titles, rows)


def against_fastest(engines: Engines) -> tuple[str, str]:
    """(fastest other engine / edgeconv, its interval), by paired rounds if they are kept."""
    peer = fastest_other(engines)
    if peer is None:
        return NOTHING, NOTHING
    paired = engines[peer].get("ratio")
    interval = f"{paired[1]:.2f} to {paired[2]:.2f}" if paired else NOTHING
    return f"{ratio_to_own(engines, peer):.2f}", interval


def _speed(content: Mapping[str, Any], case: Case, engines: Engines) -> list[str]:
    median, flops = engines.get(OWN, {}).get("median_ms"), case.get("flops")
    moved = f"{case['bytes'] / 2**20:.2f}" if case.get("bytes") else NOTHING
    if not median or not flops:
        return [NOTHING, NOTHING, moved]
    speed, peak = flops / median / 1e6, peak_of(content, case)
    return [f"{speed:.1f}", f"{100 * speed / peak:.0f}" if peak else NOTHING, moved]


def milliseconds(value: float | None) -> str:
    """Three digits, four from one second on."""
    if value is None:
        return NOTHING
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


COLUMNS = (
    *("case", "mode", "threads", "engine", "median_ms", "low_ms", "high_ms", "p10_ms", "p90_ms"),
    *("calls", "rounds", "disturbed", "error", "prepare_s", "ratio", "ratio_low", "ratio_high"),
    *("gflops", "percent_of_peak", "bytes", "gb_s", "drift", "noisy", "failed"),
)


def records(
    content: Mapping[str, Any], keys: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """One row for each engine of each case, by `COLUMNS`; `ratio` is its time over edgeconv's."""
    for key in content["cases"] if keys is None else keys:
        case = content["cases"][key]
        for mode, engines in measurements(case).items():
            for name in engine_order(engines):
                yield _record(content, key, case, mode, name, engines[name])


def _record(
    content: Mapping[str, Any],
    key: str,
    case: Case,
    mode: str,
    name: str,
    engine: Mapping[str, Any],
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row.update({"case": key, "mode": mode, "threads": case.get("threads"), "engine": name})
    row.update({k: v for k, v in engine.items() if k in COLUMNS})
    noise = case.get("noise", {})
    row.update(drift=noise.get("drift"), noisy=noise.get("noisy"), bytes=case.get("bytes"))
    row["low_ms"], row["high_ms"] = engine.get("interval_ms", (None, None))
    row["ratio"], row["ratio_low"], row["ratio_high"] = engine.get("ratio") or (None,) * 3
    median, peak = engine.get("median_ms"), peak_of(content, case)
    if median and case.get("flops"):
        row["gflops"] = round(case["flops"] / median / 1e6, 2)
        row["percent_of_peak"] = round(100 * row["gflops"] / peak, 2) if peak else None
    if median and case.get("bytes"):
        row["gb_s"] = round(case["bytes"] / median / 1e6, 2)
    return row


def to_csv(content: Mapping[str, Any], keys: Sequence[str] | None = None) -> str:
    """All rows of `records`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(content, keys))
    return text.getvalue()
