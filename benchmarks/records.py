"""Result files of long measurements: written after every case, continued where they stopped.

{"programme": name, "settings": {...}, "sessions": [provenance of each run], "cases": {key: case}};
each case has the number of the session that measured it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeconv.benchmarks.provenance import provenance
from edgeconv.benchmarks.validity import fault
from edgeconv.errors import EdgeconvError

Case = dict[str, Any]


class Records:
    """The results of one programme with fixed settings."""

    def __init__(self, path: Path | None, programme: str, settings: Mapping[str, Any]) -> None:
        """Open a file, or begin one; without a path nothing is kept.

        Raises:
            EdgeconvError: the file is of another programme or other settings.
        """
        self.path = path
        self.content: dict[str, Any] = {
            "programme": programme,
            "settings": dict(settings),
            "sessions": [],
            "cases": {},
        }
        if path is not None and path.exists():
            found = read(path)
            for key in ("programme", "settings"):
                if found[key] != self.content[key]:
                    raise EdgeconvError(
                        f"{path}: {key} {found[key]} there, {self.content[key]} here; "
                        "name another file, or give the same arguments"
                    )
            self.content = found
        self._session: int | None = None

    def __contains__(self, key: str) -> bool:
        return key in self.content["cases"]

    @property
    def cases(self) -> dict[str, Case]:
        """All cases measured so far."""
        cases: dict[str, Case] = self.content["cases"]
        return cases

    def add(self, key: str, case: Case) -> None:
        """Append a case and write the file; a reader never sees half of it."""
        if self._session is None:
            self.content["sessions"].append(provenance())
            self._session = len(self.content["sessions"]) - 1
        self.cases[key] = {**case, "session": self._session}
        if self.path is not None:
            self.save(self.path)

    def save(self, path: Path) -> None:
        """Write a file; a reader never sees half of it.

        Raises:
            EdgeconvError: it can't be written.
        """
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(_INNER.sub(_on_one_line, _dump(self.content)), encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            raise EdgeconvError(f"can't write {path}: {error.strerror or error}") from error


def _dump(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


_INNER = re.compile(r"\[[^][{}\"]*\]")  # lists of numbers


def _on_one_line(found: re.Match[str]) -> str:
    return " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]")


def read(path: Path) -> dict[str, Any]:
    """The contents of a result file.

    Raises:
        EdgeconvError: it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise EdgeconvError(f"{path}: not a result file: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise EdgeconvError(f"{path}: not a result file: {error}") from error
    problem = fault(found)
    if problem is not None:
        raise EdgeconvError(f"{path}: not a result file: {problem}")
    return dict(found)
