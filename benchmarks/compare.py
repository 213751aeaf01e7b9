"""Two result files beside each other: where edgeconv became slower or faster beyond noise.

The measure is edgeconv's time over ONNX Runtime's in the same rounds, because the machine's speed
cancels; without that engine, edgeconv's time itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeconv.benchmarks.peers import OWN, REFERENCE
from edgeconv.benchmarks.statistics import Estimate
from edgeconv.benchmarks.summary import Engines
from edgeconv.benchmarks.tabulate import NOTHING, Table, measurements, milliseconds

# An interval knows one process only. From one process to the next, the same code on layers of a few
# microseconds differs by more: where buffers lie is luck.
TOLERANCE = 0.10

Verdict = Literal["slower", "faster", "same", "fails now", "works now", "gone", "new"]


@dataclass(frozen=True)
class Change:
    """One case in both files.

    Attributes:
        case: its key.
        old_ms, new_ms: edgeconv's medians; None where it has none.
        factor: new over old of the measure, with its interval; above 1 is slower.
        verdict: slower or faster only where the whole interval is beyond the tolerance's side of 1
            and the factor beyond the tolerance.
        relative: the measure is relative to ONNX Runtime.
    """

    case: str
    old_ms: float | None
    new_ms: float | None
    factor: Estimate | None
    verdict: Verdict
    relative: bool = True

    @property
    def is_regression(self) -> bool:
        """Slower, or no longer working."""
        return self.verdict in ("slower", "fails now")


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float = TOLERANCE
) -> list[Change]:
    """Every case of either file, in the order of the new one."""
    before, after = _by_name(old), _by_name(new)
    changes = [
        _change(name, before[name], engines, tolerance)
        if name in before
        else Change(name, None, _median(engines), None, "new")
        for name, engines in after.items()
    ]
    for name in before.keys() - after.keys():
        changes.append(Change(name, _median(before[name]), None, None, "gone"))
    return changes


def _by_name(content: Mapping[str, Any]) -> dict[str, Engines]:
    found = {}
    for key, case in content["cases"].items():
        modes = measurements(case)
        for mode, engines in modes.items():
            found[key if len(modes) == 1 else f"{key} ({mode})"] = engines
    return found


def _median(engines: Engines) -> float | None:
    value: float | None = engines.get(OWN, {}).get("median_ms")
    return value


def _change(name: str, old: Engines, new: Engines, tolerance: float) -> Change:
    old_ms, new_ms = _median(old), _median(new)
    if old_ms is None or new_ms is None:
        works: Verdict = "same" if old_ms is new_ms else "works now" if new_ms else "fails now"
        return Change(name, old_ms, new_ms, None, works)
    relative = all("median_ms" in engines.get(REFERENCE, {}) for engines in (old, new))
    factor = _quotient(_measure(new, relative), _measure(old, relative))
    verdict: Verdict = "same"
    if factor.low > 1 and factor.value > 1 + tolerance:
        verdict = "slower"
    elif factor.high < 1 and factor.value < 1 / (1 + tolerance):
        verdict = "faster"
    return Change(name, old_ms, new_ms, factor, verdict, relative)


def _measure(engines: Engines, relative: bool) -> Estimate:
    """edgeconv's time over ONNX Runtime's, or edgeconv's time."""
    own, reference = engines[OWN], engines.get(REFERENCE, {})
    if not relative:
        return Estimate(own["median_ms"], *own.get("interval_ms", [own["median_ms"]] * 2))
    if reference.get("ratio"):
        value, low, high = reference["ratio"]  # of ONNX Runtime's time to edgeconv's
        return Estimate(1 / value, 1 / high, 1 / low)
    ratio = own["median_ms"] / reference["median_ms"]
    return Estimate(ratio, ratio, ratio)


def _quotient(a: Estimate, b: Estimate) -> Estimate:
    """a / b of independent estimates: their intervals' logarithmic widths add in squares."""
    value = a.value / b.value

    def width(up: bool) -> float:
        first = math.log(a.high / a.value) if up else math.log(a.value / a.low)
        second = math.log(b.value / b.low) if up else math.log(b.high / b.value)
        return math.hypot(first, second)

    return Estimate(value, value * math.exp(-width(False)), value * math.exp(width(True)))


def table(changes: list[Change]) -> Table:
    """One row a case."""
    rows = []
    for change in changes:
        factor = change.factor
        rows.append(
            [
                change.case,
                milliseconds(change.old_ms),
                milliseconds(change.new_ms),
                NOTHING if factor is None else f"{factor.value:.3f}",
                NOTHING if factor is None else f"{factor.low:.3f} to {factor.high:.3f}",
                change.verdict + ("" if change.relative else " (absolute)"),
            ]
        )
    titles = ["case", "old ms", "new ms", "new / old", "interval", "verdict"]
    return Table(titles, rows)
