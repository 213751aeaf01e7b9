"""What a run of the tuner has done so far: lines appended as it goes, read when it goes on.

Scratch, not records: it may be deleted, and then the run begins anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from edgeconv.errors import EdgeconvError
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.keys import digest
from edgeconv.tuning.lines import append_line, read_lines
from edgeconv.tuning.record import knobs_from_json
from edgeconv.tuning.search import Trial

Entry = dict[str, Any]


class Journal:
    """The entries of one run; a second process with the same journal is refused.

    Attributes:
        entries: all that were read and added, in order.
        damaged: lines that were skipped.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one.

        Raises:
            EdgeconvError: it can't be read or written, or another process has it open.
        """
        self.path = path
        self.entries: list[Entry] = []
        self.damaged = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] | None = path.with_suffix(".lock").open("a+", encoding="ascii")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.seek(0)
                holder = self._lock.read().strip() or "unknown"
                self._lock.close()
                raise EdgeconvError(
                    f"this network is being tuned already, by process {holder}; wait for it, or "
                    "give another --seed"
                ) from None
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n")
            self._lock.flush()
            path.touch()
        except OSError as error:
            raise EdgeconvError(f"can't write {path}: {error.strerror or error}") from error
        lines, problem = read_lines(path)
        if problem is not None:
            raise EdgeconvError(f"{path}: {problem}; delete it to begin anew")
        for line in lines:
            entry = _entry(line)
            if entry is None:
                self.damaged += 1
            else:
                self.entries.append(entry)

    def add(self, kind: str, **values: Any) -> None:
        """Append an entry; when this returns it survives a `kill -9`.

        Raises:
            EdgeconvError: it can't be written.
        """
        entry = {"kind": kind, **values}
        try:
            append_line(self.path, json.dumps({**entry, "sha256": digest(entry)}))
        except OSError as error:
            raise EdgeconvError(f"can't write {self.path}: {error.strerror or error}") from error
        self.entries.append(entry)

    def restart(self) -> None:
        """Forget everything.

        Raises:
            EdgeconvError: it can't be written.
        """
        try:
            os.truncate(self.path, 0)
        except OSError as error:
            raise EdgeconvError(f"can't write {self.path}: {error.strerror or error}") from error
        self.entries, self.damaged = [], 0

    def of(self, kind: str) -> list[Entry]:
        """Entries of a kind, in order."""
        return [e for e in self.entries if e["kind"] == kind]

    @property
    def spent(self) -> float:
        """Seconds the run has taken, up to the last entry."""
        return max((float(e.get("spent", 0.0)) for e in self.entries), default=0.0)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _entry(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
        given = entry.pop("sha256")
        if given == digest(entry) and isinstance(entry["kind"], str):
            return dict(entry)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    return None


def trials_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Trials as JSON types."""
    found = []
    for t in trials:
        item: dict[str, Any] = {"family": t.candidate.family, "knobs": t.candidate.values}
        if t.ratio is None:
            found.append({**item, "fault": t.fault})
        else:
            found.append({**item, "ratio": t.ratio, "us": t.us})
    return found


def trials_from_json(items: Sequence[dict[str, Any]]) -> list[Trial]:
    """The inverse of `trials_json`; knobs that are gone are left out."""
    found = []
    for item in items:
        try:
            knobs = knobs_from_json(item["family"], item["knobs"])
        except (ValueError, KeyError):
            continue
        candidate = Candidate(item["family"], knobs)
        ratio, us = item.get("ratio"), item.get("us")
        found.append(Trial(candidate, ratio, us, item.get("fault", "")))
    return found
