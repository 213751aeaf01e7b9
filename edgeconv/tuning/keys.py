"""What a record is for: tasks as JSON, profiles of devices, hashes of the schedules' sources."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import io
import json
import tokenize
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeconv import codegen, schedules
from edgeconv.schedules import FAMILIES, pooling
from edgeconv.schedules.pairs import PAIRS
from edgeconv.targets import Device
from edgeconv.tuning.families import PoolFamily, Schedule, TwoKernels
from edgeconv.workload import ConvTask, PairTask, PoolTask, Task

DIGEST = 16  # hexadecimal digits
_NOT_OF_THE_CPU = ("name", "description", "cores", "ghz")


def canonical(data: object) -> str:
    """JSON text that is the same for equal data.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(data: object) -> str:
    """A short hash of JSON data."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:DIGEST]


def task_json(task: Task) -> dict[str, Any]:
    """A task as JSON types; fields that hold their default are left out."""
    return _plain(task)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.default is dataclasses.MISSING or item != field.default:
                found[field.name] = _plain(item)
        return found
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def task_from_json(data: Mapping[str, Any]) -> Task:
    """The inverse of `task_json`.

    Raises:
        KeyError, TypeError, ValueError: it is no task.
    """
    kind = PairTask if "first" in data else PoolTask if "window" in data else ConvTask
    task: Task = _decoded(kind, data)
    if task_json(task) != data:
        raise ValueError("a task with fields that mean nothing")
    return task


def _decoded(hint: Any, value: Any) -> Any:
    """JSON types as what a type hint says: dataclasses and tuples, nested."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _decoded(hints[name], item) for name, item in dict(value).items()})
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in arguments if a is not type(None))
        return None if value is None else _decoded(inner, value)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_decoded(arguments[0], item) for item in value)
        return tuple(_decoded(a, item) for a, item in zip(arguments, value, strict=True))
    return tuple(value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=4096)
def task_digest(task: Task) -> str:
    """A short hash of a task."""
    return digest(task_json(task))


def profile(device: Device) -> dict[str, Any]:
    """What of a device decides how fast a kernel is: all but its name, clock and count of cores."""
    found = dataclasses.asdict(device)
    for key in _NOT_OF_THE_CPU:
        del found[key]
    return {**found, "features": list(device.features)}


@functools.lru_cache(maxsize=64)
def profile_digest(device: Device) -> str:
    """A short hash of a device's profile."""
    return digest(profile(device))


def folder_of(device: Device) -> str:
    """The folder for the records of a device: its name, with the CPU's where it is detected."""
    detected = device.name in ("host", "detected")
    return f"{device.name}-{device.cpu}" if detected else device.name


@functools.cache
def source_hash(family: Schedule) -> str:
    """A hash of the code a family's kernels are made by: its module, the schedule modules that one
    imports, and code generation; without comments and docstrings. Of two kernels, that of all
    families: each kernel may be of any, and what was not faster is of another.
    """
    if isinstance(family, TwoKernels):
        return digest([source_hash(f) for f in (*FAMILIES, *PAIRS)])
    folder = Path(schedules.__file__).parent
    own = pooling.__name__ if isinstance(family, PoolFamily) else family.compute.__module__
    wanted, found = [own.rpartition(".")[2]], set[str]()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += _imported(folder / f"{name}.py", folder)
    sources = [*(folder / f"{name}.py" for name in sorted(found)), Path(codegen.__file__)]
    state = hashlib.sha256()
    for path in sources:
        state.update(path.name.encode() + b"\n")
        state.update(code_of(path.read_text(encoding="utf-8")).encode())
    return state.hexdigest()[:DIGEST]


def _imported(path: Path, folder: Path) -> list[str]:
    """Modules of the package `schedules` that a file imports."""
    package, names = "edgeconv.schedules", []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package}."):
            names.append(str(node.module).removeprefix(f"{package}."))
    return [name for name in names if (folder / f"{name}.py").exists()]


def code_of(source: str) -> str:
    """Python source without comments, docstrings and blank lines, the same for every version of
    Python.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    scopes = (ast.Module, ast.FunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, scopes) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            for row in range(text.lineno, (text.end_lineno or text.lineno) + 1):
                lines[row - 1] = ""
    return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())
