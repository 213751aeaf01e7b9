"""What a run of the tuner came to, as JSON types: for `--json`, the table and the page."""

from __future__ import annotations

from typing import Any

from edgeconv.tuning import keys
from edgeconv.tuning.journal import trials_from_json
from edgeconv.tuning.tuner import TaskState, Tuner


def summary(tuner: Tuner, model: str, network: dict[str, Any] | None) -> dict[str, Any]:
    """Tasks, totals, the network before and after, failures, and the best over time."""
    return {
        "model": model,
        "target": tuner.device.name,
        "cpu": tuner.device.cpu,
        "cpu_model": tuner.cpu_model,
        "threads": tuner.device.cores,
        "records": str(tuner.folder),
        "seconds": round(tuner.spent, 1),
        "trials": tuner.trials,
        "failures": sum(len(s.failures) for s in tuner.states),
        "repeated": getattr(tuner.runner, "repeated", 0),
        "speedup_of_kernels": round(tuner.speedup, 4),
        "network": network,
        "tasks": [_task(tuner, s) for s in tuner.states],
        "history": history(tuner),
    }


def _task(tuner: Tuner, state: TaskState) -> dict[str, Any]:
    record = state.record
    return {
        "number": state.item.number,
        "layers": list(state.item.layers),
        "workload": state.item.workload,
        "share": round(tuner.share(state), 4),
        "candidates": len(state.search.space),
        "trials": state.search.tried,
        "state": _state(state),
        "default": str(state.search.default),
        "default_us": record.default_us if record else state.default_us,
        "best_us": record.median_us if record else None,
        "speedup": round(record.speedup, 4) if record else None,
        "schedule": record.family if record else None,
        "knobs": record.to_json()["knobs"] if record else None,
        "failures": [{"candidate": str(t.candidate), "why": t.fault} for t in state.failures],
        "fault": state.fault or None,
    }


def _state(state: TaskState) -> str:
    if state.fault:
        return "failed"
    if state.skipped:
        return "tuned before"
    if state.record is None:
        return "not reached"
    own = state.search.default
    same = (state.record.family, state.record.knobs) == (own.family, own.knobs)
    return "default kept" if same else "tuned"


def history(tuner: Tuner) -> list[dict[str, Any]]:
    """Points in time: seconds, trials so far, and how much faster the tasks are together, by
    the best of each then.
    """
    by_digest = {keys.task_digest(s.item.task): s for s in tuner.states}
    best = dict.fromkeys(by_digest, 1.0)
    points: list[dict[str, Any]] = []
    count = 0
    total = sum(s.weight_us for s in tuner.states)
    for entry in tuner.journal.of("batch"):
        if entry["task"] not in by_digest:
            continue
        trials = trials_from_json(entry["trials"])
        count += len(trials)
        ratios = [t.ratio for t in trials if t.ratio is not None]
        best[entry["task"]] = min([best[entry["task"]], *ratios])
        after = sum(s.weight_us * best[d] for d, s in by_digest.items())
        if after:
            point = {"seconds": entry["spent"], "trials": count, "speedup": round(total / after, 4)}
            points.append(point)
    return points
