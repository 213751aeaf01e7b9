"""One finding of `edgeconv doctor` or `edgeconv device check`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True)
class Check:
    """One line of a report.

    Attributes:
        section: heading it stands under.
        name: what was looked at.
        status: ok, warning (something is slower or missing), or fault (edgeconv does not work).
        detail: what was found.
        advice: what to do; empty where all is well.
    """

    section: str
    name: str
    status: str
    detail: str
    advice: str = ""


def carried_out(
    section: str, parts: Iterable[tuple[str, Callable[[], Iterable[Check]]]]
) -> Iterator[Check]:
    """The findings of all parts; a part that raises is a fault, and the others still run."""
    for name, part in parts:
        try:
            yield from part()
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            yield Check(section, name, FAULT, f"{type(error).__name__}: {text}", "see the message")
