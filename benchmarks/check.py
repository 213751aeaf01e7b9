"""A small fixed set that is compared with the baseline committed for this kind of CPU.

Two engines and about twenty cases: some five minutes. A case that looks slower is measured again,
in twice as many rounds, and counts only if it still does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeconv.benchmarks import cases, running
from edgeconv.benchmarks.cases import CaseToRun
from edgeconv.benchmarks.compare import Change, compare
from edgeconv.benchmarks.noise import sentence
from edgeconv.benchmarks.peers import OWN, REFERENCE
from edgeconv.benchmarks.provenance import commit
from edgeconv.benchmarks.records import Records, read
from edgeconv.benchmarks.running import Method
from edgeconv.errors import EdgeconvError
from edgeconv.targets import host
from edgeconv.workload import Conv2d

PROGRAMME = "check"
FOLDER = Path(__file__).resolve().parent / "baselines"
TOLERANCE = 0.15
TRIES = 3
ENGINES = (OWN, REFERENCE)
NETWORKS = (  # of short calls: longer ones are disturbed too often to be kept in a baseline
    "mobilenetv2",
    "shufflenetv1_g3",
    "squeezenet",
    "resnet18",
    "resnet34_g8",
    "wrn40_2_g4",
)
LAYERS = (
    "128x28x28->128 k3 p1",
    "128x28x28->128 k3 p1 g2",
    "128x28x28->128 k3 p1 g8",
    "128x28x28->128 k3 p1 g32",
    "128x28x28->128 k3 p1 g64",
    "128x28x28->128 k3 p1 g128",
    "96x14x20->96 k5 p2 g96",
    "144x56x56->144 k3 s2 p1 g144",
    "64x28x28->64 k3 p2 d2 g64",
    "75x19x19->150 k3 p1 g25",
    "128x28x28->256 k1",
    "240x28x28->60 k1 g3",
    "3x160x160->32 k3 s2 p1",
)


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        changes: of every case.
        noisy: cases during which the machine was not steady.
    """

    changes: list[Change]
    noisy: list[str]

    @property
    def regressions(self) -> list[Change]:
        """Cases that became slower, or fail."""
        return [c for c in self.changes if c.is_regression]

    @property
    def unknown(self) -> list[str]:
        """Cases that the baseline lacks."""
        return [c.case for c in self.changes if c.verdict == "new"]


def the_set() -> list[CaseToRun]:
    """The cases, all on one thread."""
    layers = [cases.of_layer(Conv2d.parse(text)) for text in LAYERS]
    return [*layers, *(cases.of_network(name) for name in NETWORKS)]


def baseline() -> Path:
    """The file for this kind of CPU."""
    return FOLDER / f"{host().cpu}.json"


def read_baseline(path: Path) -> dict[str, Any]:
    """Its content.

    Raises:
        EdgeconvError: there is none, or it is the result of another command.
    """
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json"))) or "none yet"
        raise EdgeconvError(
            f"no baseline for {path.stem} (there is one for: {known}); make it with `edgeconv "
            "bench check --write`, on a commit known to be good"
        )
    found = read(path)
    if found["programme"] != PROGRAMME:
        raise EdgeconvError(f"{path}: of `{found['programme']}`, no baseline of `bench check`")
    return found


def made_for(content: dict[str, Any]) -> str:
    """The kind of CPU a baseline was measured on."""
    return str(content["sessions"][-1]["llvm_cpu"]) if content["sessions"] else "no CPU"


def run(
    old: dict[str, Any],
    method: Method,
    tolerance: float = TOLERANCE,
    starting: Callable[[str, int], None] = lambda key, number: None,
    items: list[CaseToRun] | None = None,
) -> Outcome:
    """Measure the set and compare it; what looks slower is measured twice.

    Raises:
        EdgeconvError: a case can't be measured.
    """
    chosen = the_set() if items is None else items
    records = Records(None, PROGRAMME, method.settings)
    running.run(records, chosen, method, starting)
    changes = compare(old, records.content, tolerance)
    suspects = {c.case for c in changes if c.is_regression}
    again = [case for case in chosen if case.key in suspects]
    if not again:
        return Outcome(changes, _noisy(records))
    longer = replace(method, pace=replace(method.pace, rounds=2 * method.pace.rounds))
    second = Records(None, PROGRAMME, longer.settings)
    running.run(second, again, longer, starting)
    repeated = {c.case: c for c in compare(old, second.content, tolerance) if c.case in suspects}
    records.cases.update(second.cases)
    return Outcome([repeated.get(c.case, c) for c in changes], _noisy(records))


def _noisy(records: Records) -> list[str]:
    return [key for key, case in records.cases.items() if case["noise"]["noisy"]]


def write(
    path: Path, method: Method, starting: Callable[[str, int], None] = lambda key, number: None
) -> list[str]:
    """Measure the set and make it the baseline; without samples, for it is committed. A noisy case
    is measured up to three times; the keys of those that stay noisy, and are left out. What the
    file has of the same commit is not measured again: what was left out is tried once more.

    Raises:
        EdgeconvError: a case can't be measured, or all are noisy.
    """
    records = Records(None, PROGRAMME, method.settings)
    chosen, noisy = the_set(), list[str]()
    _continue(records, path, {case.key for case in chosen})
    for number, case in enumerate(chosen):
        if case.key in records:
            continue
        for _ in range(TRIES):
            starting(case.key, number)
            found = running.measure(case, method)
            if not found["noise"]["noisy"]:
                records.add(case.key, found)
                break
        else:
            noisy.append(case.key)
    if not records.cases:
        raise EdgeconvError(f"no baseline: {sentence(found['noise'])}")
    for kept in records.cases.values():
        for engine in kept["engines"].values():
            engine.pop("samples_ms", None)
        kept["noise"].pop("loop_ms", None)
    path.parent.mkdir(exist_ok=True)
    records.save(path)
    return noisy


def _continue(records: Records, path: Path, keys: set[str]) -> None:
    """Take over what a file has, if all of it is of this commit, CPU and settings."""
    if not path.exists():
        return
    found, now = read_baseline(path), commit()
    same = now is not None and not now.endswith("-dirty") and made_for(found) == host().cpu
    if (
        same
        and found["settings"] == records.content["settings"]
        and {session["commit"] for session in found["sessions"]} == {now}
    ):
        found["cases"] = {k: case for k, case in found["cases"].items() if k in keys}
        records.content = found
