"""Runs cases on engines and keeps the results: the way every `edgeconv bench` command measures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from edgeconv.benchmarks import noise, worker
from edgeconv.benchmarks.cases import CaseToRun
from edgeconv.benchmarks.harness import locked
from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE, Peer, find, tvm_tuned
from edgeconv.benchmarks.records import Case, Records
from edgeconv.benchmarks.rounds import Pace
from edgeconv.errors import EdgeconvError
from edgeconv.targets import host, load

if TYPE_CHECKING:
    from edgeconv.benchmarks.on_device import Board

LIMIT_S = 300.0


@dataclass(frozen=True)
class Method:
    """How cases are measured.

    Attributes:
        engines: their names; edgeconv and the reference are always among them.
        pace: rounds and calls of each case.
        target: what edgeconv compiles for; it must run here.
        profile: also time edgeconv's layers.
        strict: a noisy measurement is an error.
        limit: seconds an engine may take for one step.
        lock: file to hold locked while measuring.
        board: where edgeconv runs, alone; None: here.
        trials: of each task, where TVM is tuned.
    """

    engines: Sequence[str]
    pace: Pace = field(default_factory=Pace)
    target: str = "host"
    profile: bool = False
    strict: bool = False
    limit: float = LIMIT_S
    lock: Path | None = None
    board: Board | None = None
    trials: int = tvm_tuned.TRIALS

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree for a result file to be continued."""
        more: dict[str, Any] = {} if self.board is None else {"device": self.board.address}
        if tvm_tuned.PEER.name in self.engines:
            more["trials"] = self.trials
        return {
            **more,
            "engines": list(self.engines),
            "rounds": self.pace.rounds,
            "seconds": self.pace.seconds,
            "target": self.target,
        }


def engines(names: Sequence[str] | None) -> tuple[list[str], list[Peer]]:
    """(names of the installed engines among those asked for, edgeconv and the reference first; the
    absent ones). None asks for all.

    Raises:
        EdgeconvError: no such engine, or the reference is absent.
    """
    unknown = set(names or []) - PEERS.keys()
    if unknown:
        raise EdgeconvError(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    wanted = None if names is None else list(dict.fromkeys([OWN, REFERENCE, *names]))
    installed, absent = find(wanted)
    if REFERENCE in (peer.name for peer in absent):
        peer = PEERS[REFERENCE]
        raise EdgeconvError(
            f"{peer.title} is not installed, and every engine's output is compared with its; "
            f"{peer.install}"
        )
    return [peer.name for peer in installed], absent


def check_threads(threads: Sequence[int]) -> None:
    """Refuse more threads than cores, and none.

    Raises:
        EdgeconvError: so.
    """
    cores = host().cores
    wrong = [t for t in threads if not 1 <= t <= cores]
    if wrong:
        raise EdgeconvError(
            f"{wrong[0]} threads: this process may use {cores} cores; give 1 to {cores}"
        )


def check_target(name: str) -> None:
    """Refuse a target whose code does not run here.

    Raises:
        EdgeconvError: it is unknown, or another machine.
    """
    device = load(name)
    if not device.is_native:
        raise EdgeconvError(
            f"target '{name}' ({device.arch}, {device.cpu}) does not run on this machine; run the "
            "same command on the board"
        )


def run(
    records: Records,
    cases: Sequence[CaseToRun],
    method: Method,
    starting: Callable[[str, int], None] = lambda key, number: None,
    done: Callable[[str, Case], None] = lambda key, case: None,
) -> list[str]:
    """Measure the cases that the records lack; returns the keys of all.

    Args:
        starting: is told the key and number of each case before it is measured.
        done: is given every case, also those that were there.

    Raises:
        EdgeconvError: a case could not be measured at all, or was noisy and `strict` is set.
    """
    for number, case in enumerate(cases):
        if case.key not in records:
            starting(case.key, number)
            records.add(case.key, measure(case, method))
        done(case.key, records.cases[case.key])
    return [case.key for case in cases]


def measure(case: CaseToRun, method: Method) -> Case:
    """One case in a process of its own.

    Raises:
        EdgeconvError: as `run`.
    """
    model, facts = case.make()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        onnx.save(model, path)
        found = _measured(path, case.threads, method)
    if method.strict and found["noise"]["noisy"]:
        raise EdgeconvError(f"{case.key}: {noise.sentence(found['noise'])}")
    return {**facts, "threads": case.threads, **found}


def _measured(path: Path, threads: int, method: Method) -> dict[str, Any]:
    if method.board is not None:
        from edgeconv.benchmarks import on_device

        with locked(method.lock):
            return on_device.measure(path, method.board, threads, method.pace, method.profile)
    return worker.measure(
        {"network": path},
        method.engines,
        threads=threads,
        pace=method.pace,
        limit=method.limit,
        lock=method.lock,
        target=method.target,
        profile=method.profile,
        trials=method.trials,
    )["network"]
