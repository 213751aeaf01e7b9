"""Arithmetic of comparisons: r = time of the fastest other engine / time of edgeconv."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeconv.benchmarks.peers import OURS, OWN, PEERS

Engines = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """edgeconv against the fastest other engine in one measurement."""

    case: str
    own_ms: float
    peer: str
    peer_ms: float

    @property
    def ratio(self) -> float:
        """Above 1: edgeconv is faster."""
        return self.peer_ms / self.own_ms


def times(engines: Engines) -> dict[str, float]:
    """Medians, ms, of the engines that have one."""
    return {n: e["median_ms"] for n, e in engines.items() if "median_ms" in e}


def compare(case: str, engines: Engines) -> Comparison | None:
    """None where edgeconv, or every other engine, has no time."""
    found = times(engines)
    others = {name: ms for name, ms in found.items() if name not in OURS}
    if OWN not in found or not others:
        return None
    peer = min(others, key=lambda name: others[name])
    return Comparison(case, found[OWN], peer, others[peer])


def ratio_to_own(engines: Engines, name: str) -> float | None:
    """An engine's time over edgeconv's: by paired rounds where they are kept, else of medians."""
    engine, own = engines.get(name, {}), engines.get(OWN, {})
    if "median_ms" not in engine or "median_ms" not in own:
        return None
    paired = engine.get("ratio")
    return float(paired[0] if paired else engine["median_ms"] / own["median_ms"])


def fastest_other(engines: Engines) -> str | None:
    """The engine besides edgeconv, tuned or not, with the smallest `ratio_to_own`."""
    ratios = {
        n: r for n in engines if n not in OURS and (r := ratio_to_own(engines, n)) is not None
    }
    return min(ratios, key=lambda n: ratios[n], default=None)


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm; nan of nothing."""
    logs = [math.log(r) for r in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def worst(comparisons: Iterable[Comparison]) -> Comparison | None:
    """The smallest ratio."""
    return min(comparisons, key=lambda c: c.ratio, default=None)


def losses(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Ratios below 1, the worst first."""
    return sorted((c for c in comparisons if c.ratio < 1), key=lambda c: c.ratio)


def engine_order(names: Iterable[str]) -> list[str]:
    """Each name once, in the order of `PEERS`."""
    given = set(names)
    return [name for name in PEERS if name in given]


def faults(cases: Mapping[str, Mapping[str, Engines]]) -> str:
    """Markdown: what `failures` finds, and how many times are disturbed; empty if nothing is."""
    lines = [
        f"- {PEERS[engine].title}, {len(keys)} of the measurements: {reason}"
        for (engine, reason), keys in failures(cases).items()
    ]
    text = "Engines without a time:\n\n" + "\n".join(lines) + "\n" if lines else ""
    engines = [e for m in cases.values() for found in m.values() for e in found.values()]
    count = sum(bool(e.get("disturbed")) for e in engines)
    if count:
        text += f"\n{count} of {len(engines)} times include calls that other processes disturbed.\n"
    return text


def failures(cases: Mapping[str, Mapping[str, Engines]]) -> dict[tuple[str, str], list[str]]:
    """Cases in which an engine gave no time, by engine and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for case, measurements in cases.items():
        for engines in measurements.values():
            for name, engine in engines.items():
                if "failed" in engine:
                    found.setdefault((name, engine["failed"].splitlines()[0]), []).append(case)
    return found
