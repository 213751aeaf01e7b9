"""Records: the knobs that measuring found best for a task on a device, one JSON object a line.

A folder holds `<device>/<family>.jsonl`. A record is used for the same task, device profile and
number of threads, if the sources of the schedule and TVM are those it was made with; otherwise it
is as if it weren't there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from edgeconv import strategy
from edgeconv.errors import EdgeconvError
from edgeconv.schedules import Family
from edgeconv.schedules.pairs import PairFamily
from edgeconv.strategy import FamilyT, Tuned
from edgeconv.targets import Device
from edgeconv.tuning import keys
from edgeconv.tuning.families import SCHEDULES, TWO_KERNELS, PoolFamily
from edgeconv.tuning.lines import append_line, read_lines
from edgeconv.tuning.record import Fault, Record, from_line
from edgeconv.workload import ConvTask, PairTask, PoolTask, Task


@dataclass(frozen=True)
class Stored:
    """A record and the line it was read from."""

    record: Record
    path: Path
    line: int


class RecordError(EdgeconvError):
    """A folder of records can't be read or written."""


def shipped_folder() -> Path:
    """Records that come with edgeconv."""
    return Path(__file__).resolve().parent.parent / "tuning_logs"


def user_folder() -> Path:
    """The user's own records: `edgeconv/tuning` in XDG_DATA_HOME, or in ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".local/share"
    return home / "edgeconv" / "tuning"


def read_file(path: Path) -> tuple[list[Stored], list[Fault]]:
    """The records of a file, and its lines that are none."""
    lines, problem = read_lines(path)
    if problem is not None:
        return [], [Fault(path, 0, problem)]
    return parse(path, lines)


def parse(path: Path, lines: Sequence[bytes]) -> tuple[list[Stored], list[Fault]]:
    """The records in the lines of a file, and its lines that are none."""
    found, faults = [], []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            record = from_line(line)
        except ValueError as error:
            faults.append(Fault(path, number, str(error)))
            continue
        if record.family != path.stem and path.stem in SCHEDULES:
            faults.append(Fault(path, number, f"a record of {record.family}"))
        elif record.checksum not in seen:
            seen.add(record.checksum)
            found.append(Stored(record, path, number))
    return found, faults


def files_in(folder: Path, device: Device | None = None) -> list[Path]:
    """The record files of a folder, of one device or of all; none if there is no folder.

    Raises:
        RecordError: it is not a folder, or can't be read.
    """
    try:
        if not folder.exists():
            return []
        if folder.is_file():
            return [folder]
        devices = [folder / keys.folder_of(device)] if device else sorted(folder.iterdir())
        return [
            path
            for each in devices
            if each.is_dir() and not each.name.startswith(".")
            for path in sorted(each.glob("*.jsonl"))
        ]
    except OSError as error:
        raise RecordError(f"can't read records in {folder}: {error.strerror or error}") from error


def is_current(record: Record) -> bool:
    """Whether schedule and TVM are those the record was made with."""
    return record.tvm == tvm.__version__ and record.source == keys.source_hash(record.of)


def illegal(record: Record, device: Device) -> str | None:
    """Why a family can't take the record's knobs on this device; None if it can."""
    family: Any = record.of
    task, knobs = record.task, record.knobs
    if isinstance(task, ConvTask):
        mismatch = strategy.refusal(family, task, device)
    else:
        mismatch = family.supports(task, device)
    if mismatch is not None:
        return f"{family.name} refuses the task: {mismatch}"
    if isinstance(task, ConvTask):
        known = knobs in set(family.candidates(task, device))
    else:
        known = family.has(task, knobs, device)
    return None if known else f"knobs that {family.name} does not have for the task"


class Records:
    """The records for one device; what the strategy asks before it takes default knobs.

    Attributes:
        faults: lines that were skipped, found so far.
        outdated: records for tasks asked for that other schedules or another TVM made.
    """

    def __init__(self, stored: Iterable[Stored], faults: Iterable[Fault] = ()) -> None:
        self.faults = list(faults)
        self.outdated: set[str] = set()
        self._by_task: dict[tuple[str, str, int], list[Stored]] = {}
        self._pairs: dict[tuple[str, str, int], set[PairTask]] = {}  # by the task without layouts
        for item in stored:
            self._add(item)

    def find(self, task: ConvTask, device: Device, exact: bool) -> Tuned[Family] | None:
        """Family and knobs of the newest record for the task on `device.cores` threads."""
        return self._tuned(Family, task, device, exact)

    def find_pair(self, task: PairTask, device: Device, exact: bool) -> Tuned[PairFamily] | None:
        """The same for two convolutions in one kernel; None where two kernels are faster."""
        return self._tuned(PairFamily, task, device, exact)

    def find_pool(self, task: PoolTask, device: Device, exact: bool) -> Tuned[PoolFamily] | None:
        """The same for a pool."""
        return self._tuned(PoolFamily, task, device, exact)

    def _tuned(
        self, kind: type[FamilyT], task: Task, device: Device, exact: bool
    ) -> Tuned[FamilyT] | None:
        """What the record says, if its schedule is of that kind."""
        record = self.record(task, device, exact)
        family = None if record is None else record.of
        if record is None or not isinstance(family, kind):
            return None
        return Tuned(family, record.knobs, f"tuned: {record.summary}")

    def apart(self, task: PairTask, device: Device, exact: bool) -> str | None:
        """Why a pair is not to be fused, if the records for it, in whatever layouts, agree that two
        kernels are faster.
        """
        holding = self._of_pair(task, device, exact)
        if not holding or any(r.family != TWO_KERNELS.name for r in holding):
            return None
        best = min(holding, key=lambda r: r.speedup)
        return f"measured: two kernels have {best.summary}"

    def fused(self, task: PairTask, device: Device, exact: bool) -> float | None:
        """How many times the default's speed a pair has in one kernel, if the records for it, in
        whatever layouts, agree that it is faster so.
        """
        holding = self._of_pair(task, device, exact)
        if not holding or any(r.family == TWO_KERNELS.name for r in holding):
            return None
        return min(r.speedup for r in holding)

    def _of_pair(self, task: PairTask, device: Device, exact: bool) -> list[Record]:
        """The records that hold for a pair, one for every layout."""
        key = (keys.task_digest(task.bare), keys.profile_digest(device), device.cores)
        found = [self.record(known, device, exact) for known in self._pairs.get(key, ())]
        return [record for record in found if record is not None]

    def record(self, task: Task, device: Device, exact: bool) -> Record | None:
        """The record that `find`, `find_pair` and `find_pool` go by."""
        key = (keys.task_digest(task), keys.profile_digest(device), device.cores)
        fitting = [s for s in self._by_task.get(key, []) if _answers(s.record, exact)]
        for item in sorted(fitting, key=lambda s: s.record.date, reverse=True):
            record = item.record
            if not is_current(record):
                self.outdated.add(record.checksum)
                continue
            reason = illegal(record, device)
            if reason is None:
                return record
            self._report(Fault(item.path, item.line, reason))
        return None

    def add(self, record: Record) -> None:
        """A record made meanwhile."""
        self._add(Stored(record, Path(), 0))

    def _add(self, item: Stored) -> None:
        record = item.record
        key = (record.task_digest, record.profile_digest, record.threads)
        self._by_task.setdefault(key, []).append(item)
        if isinstance(record.task, PairTask):
            key = (keys.task_digest(record.task.bare), *key[1:])
            self._pairs.setdefault(key, set()).add(record.task)

    def _report(self, fault: Fault) -> None:
        if fault not in self.faults:
            self.faults.append(fault)


def _answers(record: Record, exact: bool) -> bool:
    """A search among all families answers for exact numerics too if an exact family won it."""
    if exact:
        return record.numerics == "exact" or record.of.exact
    return record.numerics == "fast"


def load(device: Device, folders: Sequence[Path]) -> Records:
    """Records for a device out of several folders; damaged lines are skipped and noted.

    Raises:
        RecordError: a folder can't be read.
    """
    stored: list[Stored] = []
    faults: list[Fault] = []
    for folder in dict.fromkeys(folders):
        for path in files_in(folder, device):
            found, wrong = read_file(path)
            stored += found
            faults += wrong
    return Records(stored, faults)


def default_folders(own: Path | None = None) -> list[Path]:
    """Where `compile` looks: what is shipped, and the user's folder or another one."""
    return [shipped_folder(), user_folder() if own is None else own]


def path_of(folder: Path, record: Record) -> Path:
    """The file a record belongs into."""
    return folder / record.folder / f"{record.family}.jsonl"


def append(folder: Path, record: Record) -> Path:
    """Add a record to a folder; whole or not at all, others may append at the same time.

    Raises:
        RecordError: it can't be written.
    """
    path = path_of(folder, record)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, record.to_line())
    except OSError as error:
        raise RecordError(f"can't write {path}: {error.strerror or error}") from error
    return path


def newest(stored: Iterable[Stored]) -> list[Stored]:
    """For each task, device, number of threads and numerics only the newest record."""
    best: dict[tuple[object, ...], Stored] = {}
    for item in stored:
        r = item.record
        key = (r.task_digest, r.profile_digest, r.threads, r.numerics)
        if key not in best or r.date >= best[key].record.date:
            best[key] = item
    return list(best.values())


def device_of(record: Record) -> Device:
    """The device a record was made for, as the strategy sees it.

    Raises:
        RecordError: its profile is of no device.
    """
    values = {**record.profile, "features": tuple(record.profile.get("features", ()))}
    try:
        return Device(record.folder, "", cores=record.threads, **values)
    except TypeError as error:
        raise RecordError(f"the profile in a record is of no device: {error}") from error
