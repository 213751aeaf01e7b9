"""Tunes a network from its ONNX file to its end-to-end comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.artifact import Artifact
from edgeconv.build import Layer
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
            second = compile_(_found(tuner))
            second.save(after)
            found = tuner.runner.compare(before, after)
            losers = _losers(changed, (first, second), found)
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


def _losers(
    changed: list[TaskState], forms: tuple[Artifact, Artifact], found: Comparison
) -> list[TaskState]:
    """Whose records are to be taken back: all, if the network is wrong or slower with them."""
    if found.untimed:
        return changed if found.untimed == WRONG else []
    before, after = (form.manifest.layers for form in forms)
    losers = [s for s in changed if _loses(s, before, after, found)]
    return changed if not losers and found.speedup < 1 - found.noise else losers


def _loses(
    state: TaskState, before: Sequence[Layer], after: Sequence[Layer], found: Comparison
) -> bool:
    """Whether its layers take longer in the network than with the default knobs."""
    names = _joined(state.item.layers, (*before, *after))
    mine = [
        [us for layer, us in zip(layers, steps, strict=True) if names & _nodes(layer)]
        for layers, steps in ((before, found.before_steps_us), (after, found.after_steps_us))
    ]
    first, second = (float(np.sum(steps)) for steps in mine)
    count = max(map(len, mine))
    return second > SLOWER * first and second - first > LEAST_LOSS_US * count


def _joined(names: Sequence[str], layers: Sequence[Layer]) -> set[str]:
    """The names, and all nodes in one layer with them, in either form of the network: layers that
    are fused in one form may be apart in the other, or fused with others.
    """
    found = set(names)
    while True:
        more = found.union(*(_nodes(x) for x in layers if found & _nodes(x)))
        if more == found:
            return found
        found = more


def _nodes(layer: Layer) -> set[str]:
    """The ONNX nodes that a layer does, and its name."""
    return {layer.name, *layer.source}


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
