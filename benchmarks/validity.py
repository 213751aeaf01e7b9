"""Whether a parsed file has what every reader of results relies on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from edgeconv.benchmarks.peers import PEERS

_KINDS = {"programme": str, "settings": dict, "sessions": list, "cases": dict}


def fault(content: Any) -> str | None:
    """What makes it no result file, or None."""
    if not isinstance(content, dict):
        return "it is no JSON object"
    for key, kind in _KINDS.items():
        if not isinstance(content.get(key), kind):
            return f"'{key}' is {'missing' if key not in content else 'of the wrong type'}"
    if not all(isinstance(session, dict) for session in content["sessions"]):
        return "a session is no JSON object"
    for key, case in content["cases"].items():
        if not isinstance(case, dict):
            return f"case '{key}' is no JSON object"
        for name, engine in _engines(case):
            reason = _engine_fault(name, engine)
            if reason is not None:
                return f"case '{key}': {reason}"
    return None


def _engines(case: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    modes = case.get("measurements", {})
    groups = [case.get("engines", {}), *(modes.values() if isinstance(modes, dict) else ())]
    for group in groups:
        yield from group.items() if isinstance(group, dict) else [("engines", group)]


def _engine_fault(name: str, engine: Any) -> str | None:
    if name not in PEERS:
        return f"there is no engine '{name}'"
    if not isinstance(engine, dict):
        return f"'{name}' is no JSON object"
    if "failed" in engine:
        return None if isinstance(engine["failed"], str) else f"'failed' of {name} is no text"
    median = engine.get("median_ms")
    if not isinstance(median, (int, float)) or not math.isfinite(median) or median <= 0:
        return f"'median_ms' of {name} is {median!r}"
    return None
