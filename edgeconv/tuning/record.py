"""One record, and the line of JSON it is stored as, with a checksum."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeconv.tuning import keys
from edgeconv.tuning.families import SCHEDULES, Schedule, takes
from edgeconv.tuning.lines import LONGEST
from edgeconv.workload import ConvTask, PairTask, PoolTask, Task

FORMAT = 1
_KINDS: dict[str, type | tuple[type, ...]] = {
    "workload": str,
    "family": str,
    "knobs": dict,
    "median_us": (int, float),
    "spread_us": (int, float),
    "default_us": (int, float),
    "repeats": int,
    "trials": int,
    "numerics": str,
    "task": dict,
    "folder": str,
    "profile": dict,
    "cpu_model": str,
    "cores": int,
    "threads": int,
    "edgeconv": str,
    "tvm": str,
    "source": str,
    "date": str,
    "kernel": str,
}
_TASKS = {ConvTask: "one convolution", PairTask: "two convolutions", PoolTask: "a pool"}
_MOST_US = 1e9  # a kernel takes less than 1000 s


@dataclass(frozen=True)
class Fault:
    """A line that is no record; line 0: the whole file."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{where}: record skipped: {self.reason}"


@dataclass(frozen=True)
class Record:
    """The best that was found for a task.

    Attributes:
        task: the workload with layouts and what is fused; or two, as one kernel; or a pool.
        family, knobs: the schedule.
        median_us, spread_us: of a run, the spread from the 25th to the 75th percentile.
        default_us: median of the default knobs, measured in turns with it.
        repeats: samples of each.
        trials: settings measured before.
        numerics: "fast", or "exact" if inexact families were left out.
        folder: name of the device's folder.
        profile: the device; see `keys.profile`.
        cpu_model, cores: the machine that measured.
        threads: number of threads of the kernel.
        edgeconv, tvm, source: versions, and the hash of the schedule's sources.
        date: UTC, ISO 8601.
        kernel: hash of its assembly, by which `renewal` knows it again; empty: not known.
    """

    task: Task
    family: str
    knobs: Any
    median_us: float
    spread_us: float
    default_us: float
    repeats: int
    trials: int
    numerics: str
    folder: str
    profile: Mapping[str, Any]
    cpu_model: str
    cores: int
    threads: int
    edgeconv: str
    tvm: str
    source: str
    date: str
    kernel: str = ""

    @cached_property
    def task_digest(self) -> str:
        """Short hash of the task."""
        return keys.task_digest(self.task)

    @cached_property
    def profile_digest(self) -> str:
        """Short hash of the device's profile."""
        return keys.digest(dict(self.profile))

    @property
    def of(self) -> Schedule:
        """The schedule family."""
        return SCHEDULES[self.family]

    @property
    def speedup(self) -> float:
        """How much faster than the default knobs."""
        return self.default_us / self.median_us

    @property
    def summary(self) -> str:
        """For `explain`: "1.23 times the default's speed; 117 trials, 2026-11-21"."""
        trials = f"{self.trials} trial{'s' * (self.trials != 1)}"
        return f"{self.speedup:.2f} times the default's speed; {trials}, {self.date[:10]}"

    def to_json(self) -> dict[str, Any]:
        """Its fields, the telling ones first."""
        head = {
            "format": FORMAT,
            "workload": self.task.workload,
            "family": self.family,
            "knobs": dataclasses.asdict(self.knobs),
        }
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if not self.kernel:
            del rest["kernel"]
        tail = {"task": keys.task_json(self.task), "profile": dict(self.profile)}
        return head | {k: v for k, v in rest.items() if k not in head | tail} | tail

    @cached_property
    def checksum(self) -> str:
        """Short hash of all fields."""
        return keys.digest(self.to_json())

    def to_line(self) -> str:
        """One line of JSON, the checksum last."""
        return json.dumps({**self.to_json(), "sha256": self.checksum}, allow_nan=False)


def from_line(line: bytes) -> Record:
    """The record in a line.

    Raises:
        ValueError: it is none; the message is a sentence for people.
    """
    if len(line) > LONGEST:
        raise ValueError("the line is too long")
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if not text:
        raise ValueError("the line is empty")
    if text.startswith("\ufeff"):
        raise ValueError("a byte order mark before the record")
    if text.startswith(("<<<<<<<", "=======", ">>>>>>>", "|||||||")):
        raise ValueError("a mark of an unresolved merge conflict")
    try:
        data = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        torn = text.startswith("{") and not text.endswith("}")
        raise ValueError("the line is torn" if torn else f"not JSON: {error.msg}") from None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return _from_json(data)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"the number {constant}")


def _from_json(data: dict[str, Any]) -> Record:
    version = data.get("format")
    if version != FORMAT:
        raise ValueError(f"record format {version!r}; this edgeconv reads {FORMAT}")
    if "sha256" not in data:
        raise ValueError("no checksum")
    given = data.pop("sha256")
    try:
        wanted = keys.digest(data)
    except (ValueError, RecursionError):
        raise ValueError("numbers that are no numbers, or nested too deeply") from None
    if given != wanted:
        raise ValueError("the checksum does not fit: the line was changed or damaged")
    data.setdefault("kernel", "")
    for key, kind in _KINDS.items():
        if key not in data:
            raise ValueError(f"field '{key}' is missing")
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise ValueError(f"field '{key}' is {data[key]!r}"[:200])
    if strange := set(data) - _KINDS.keys() - {"format"}:
        raise ValueError(f"unknown field '{min(strange)}'")
    return _checked(data)


def _checked(data: dict[str, Any]) -> Record:
    for key in ("median_us", "default_us"):
        if not 0 < data[key] < _MOST_US:
            raise ValueError(f"field '{key}' is {data[key]!r}: not a time")
    if not 0 <= data["spread_us"] < _MOST_US:
        raise ValueError(f"field 'spread_us' is {data['spread_us']!r}: not a time")
    for key in ("threads", "cores", "repeats", "trials"):
        if data[key] < 1:
            raise ValueError(f"field '{key}' is {data[key]!r}")
    if data["numerics"] not in ("fast", "exact"):
        raise ValueError(f"field 'numerics' is {data['numerics']!r}")
    name = data["folder"]
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"field 'folder' is {name!r}: not the name of a folder")
    try:
        datetime.datetime.fromisoformat(data["date"])
    except ValueError:
        raise ValueError(f"field 'date' is {data['date']!r}: not a date") from None
    family = SCHEDULES.get(data["family"])
    if family is None:
        raise ValueError(f"unknown schedule {data['family']!r}")
    try:
        task = keys.task_from_json(data["task"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"field 'task' is no convolution or pool: {error}") from None
    if type(task) is not takes(family):
        raise ValueError(f"field 'task' is {_TASKS[type(task)]}, which {family.name} does not take")
    if task.workload != data["workload"]:
        raise ValueError("fields 'workload' and 'task' are of different workloads")
    fields = {f.name: data[f.name] for f in dataclasses.fields(Record)}
    return Record(**{**fields, "task": task, "knobs": knobs_from_json(family.name, data["knobs"])})


def knobs_from_json(family: str, values: Mapping[str, Any]) -> Any:
    """The knobs of a family out of their values by name; those that came later have defaults.

    Raises:
        ValueError: names or types are not the family's.
    """
    kind = SCHEDULES[family].knobs
    fields = {f.name: f for f in dataclasses.fields(kind)}
    needed = {name for name, f in fields.items() if f.default is dataclasses.MISSING}
    wrong = ", ".join(sorted(values.keys() - fields.keys() | needed - values.keys()))
    if wrong:
        raise ValueError(f"knobs of {family} that are unknown or missing: {wrong}")
    for name, value in values.items():
        wanted = bool if fields[name].type == "bool" else int
        if type(value) is not wanted or not math.isfinite(value):
            raise ValueError(f"knob '{name}' is {value!r}")
    return kind(**values)
