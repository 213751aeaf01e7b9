"""Tunes a network from its ONNX file to its end-to-end comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.artifact import Artifact
from edgeconv.tuning import records
from edgeconv.tuning.network import WRONG, Comparison
from edgeconv.tuning.tuner import TaskState, Tuner

SLOWER = 1.02  # a layer that takes longer by more in the network keeps its default knobs
LEAST_LOSS_US = 1.0  # the clock's own error
Compile = Callable[[records.Records | None], Artifact]


def check_network(tuner: Tuner, compile_: Compile) -> Comparison | None:
    """Compare the network with and without the records; take back those that lose in it.

    None if no record changes anything. The last word is in the journal ("network").

    Args:
        tuner: after its `run`.
        compile_: compiles the network with records, or without.

    Raises:
        EdgeconvError: it can't be compiled or measured.
    """
    changed = [s for s in tuner.states if _changes(tuner, s)]
    if not changed:
        return None
    with tempfile.TemporaryDirectory(prefix="edgeconv-tune-") as folder:
        before, after = Path(folder, "before.edgeconv"), Path(folder, "after.edgeconv")
        tuner.now = "comparing the whole network with its default knobs"
        tuner.watch(tuner)
        first = compile_(None)
        first.save(before)
        found = None
        while changed:
            compile_(_found(tuner)).save(after)
            found = tuner.runner.compare(before, after)
            losers = _losers(changed, first, found)
            if not losers:
                break
            for state in losers:
                tuner.keep_default(state)
            changed = [s for s in changed if s not in losers]
            if not changed and found.untimed != WRONG:
                found = None
    tuner.journal.add("network", result=to_json(found), spent=round(tuner.spent, 3))
    return found


def _found(tuner: Tuner) -> records.Records:
    """What this run found, as the strategy asks for it."""
    found = records.Records([])
    for state in tuner.states:
        if state.record is not None:
            found.add(state.record)
    return found


def _changes(tuner: Tuner, state: TaskState) -> bool:
    """Whether the record has other knobs than the default."""
    record, own = state.record, state.search.default
    return record is not None and (record.family, record.knobs) != (own.family, own.knobs)


def _losers(changed: list[TaskState], first: Artifact, found: Comparison) -> list[TaskState]:
    """Whose records are to be taken back: all, if the network is wrong or slower with them."""
    if found.untimed:
        return changed if found.untimed == WRONG else []
    losers = [s for s in changed if _loses(s, first, found)]
    return changed if not losers and found.speedup < 1 - found.noise else losers


def _loses(state: TaskState, first: Artifact, found: Comparison) -> bool:
    """Whether its layers take longer in the network than with the default knobs."""
    names = set(state.item.layers)
    mine = [i for i, layer in enumerate(first.manifest.layers) if layer.name in names]
    before = float(np.sum([found.before_steps_us[i] for i in mine]))
    after = float(np.sum([found.after_steps_us[i] for i in mine]))
    return after > SLOWER * before and after - before > LEAST_LOSS_US * len(mine)


def known_comparison(tuner: Tuner) -> dict[str, Any] | None:
    """What an earlier run of the same command found, if nothing has been measured since."""
    kinds = [e["kind"] for e in tuner.journal.entries if e["kind"] in ("batch", "final", "network")]
    if not kinds or kinds[-1] != "network":
        return None
    return {"result": tuner.journal.of("network")[-1]["result"]}


def to_json(found: Comparison | None) -> dict[str, Any] | None:
    """The summary of a comparison as JSON types."""
    if found is None:
        return None
    summary: dict[str, Any] = {"error": float(f"{found.error:.3g}")}
    if found.untimed:
        return {**summary, "untimed": found.untimed}
    return {
        **summary,
        "before_ms": round(float(np.median(found.before_ms)), 5),
        "after_ms": round(float(np.median(found.after_ms)), 5),
        "speedup": round(found.speedup, 5),
        "noise": round(found.noise, 5),
        "rounds": len(found.before_ms),
    }
