"""Devices by name or from a TOML file, checked key by key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgeconv.errors import TargetError
from edgeconv.targets import llvm
from edgeconv.targets.device import Device
from edgeconv.targets.host import host

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent
_FIELDS = {field.name: field for field in dataclasses.fields(Device) if field.name != "name"}
_REQUIRED = [name for name, field in _FIELDS.items() if field.default is dataclasses.MISSING]
_LANES = (4, 8, 16)
_ABIS = ("", "hard")


def names() -> list[str]:
    """Names `load` understands: the devices that come with edgeconv, and "host" first."""
    return ["host", *sorted(path.stem for path in _FOLDER.glob("*.toml"))]


def load(name_or_path: str | os.PathLike[str]) -> Device:
    """The device of that name, or the one a TOML file describes.

    A path is anything that ends in ".toml" or holds a folder separator. Raises TargetError naming
    file and key when the device is unknown or its description is wrong.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or os.sep in text:
        return _read(Path(text))
    if text == "host":
        return host()
    if text not in names():
        raise TargetError(
            f"unknown target '{text}'{_suggestion(text, names())}; known targets: "
            f"{', '.join(names())}; or give the path of a .toml file"
        )
    return _read(_FOLDER / f"{text}.toml")


def _read(path: Path) -> Device:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(f"{path}: can't read the target file: {error.strerror}") from error
    except ValueError as error:  # bad UTF-8 and bad TOML alike
        raise TargetError(f"{path}: not a valid TOML file: {error}") from error
    for key in values:
        if key not in _FIELDS:
            raise TargetError(
                f"{path}: unknown key '{key}'{_suggestion(key, list(_FIELDS))}; "
                f"legal keys: {', '.join(_FIELDS)}"
            )
    for key in _REQUIRED:
        if key not in values:
            raise TargetError(f"{path}: key '{key}' is missing; needed: {', '.join(_REQUIRED)}")
    device = Device(name=path.stem, **{key: _value(path, key, values[key]) for key in values})
    _check(path, device)
    return device


def _value(path: Path, key: str, value: object) -> Any:
    """The value of one key as `Device` wants it, its type and range checked."""
    kind = str(_FIELDS[key].type)
    wanted: str
    if kind == "str":
        wanted = "a string"
        if isinstance(value, str) and (value or key == "abi"):
            return value
    elif kind == "bool":
        wanted = "true or false"
        if isinstance(value, bool):
            return value
    elif kind == "int":
        least = 0 if key == "l3_kib" else 1
        wanted = f"a whole number, {least} or more"
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
    elif kind == "float | None":
        wanted = "a number above 0"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isfinite(value) and value > 0:
                return float(value)
    else:
        wanted = 'a list of strings, each with its sign, such as ["+neon"]'
        if isinstance(value, list) and all(_is_signed(item) for item in value):
            return tuple(value)
    raise TargetError(f"{path}: key '{key}' must be {wanted}, not {value!r}")


def _is_signed(item: object) -> bool:
    return isinstance(item, str) and len(item) > 1 and item[0] in "+-"


def _check(path: Path, device: Device) -> None:
    """What the keys must satisfy together, and what only LLVM can say."""
    if device.arch not in llvm.ARCHITECTURES:
        _fail(path, "triple", device.triple, [f"{a}-…" for a in llvm.ARCHITECTURES])
    if device.lanes not in _LANES:
        _fail(path, "lanes", device.lanes, _LANES)
    if device.abi not in _ABIS:
        _fail(path, "abi", device.abi, _ABIS)
    if (device.arch == "armv7l") != (device.abi == "hard"):
        raise TargetError(f"{path}: key 'abi' must be \"hard\" for armv7l, and only there")
    if not llvm.is_cpu(device.triple, device.cpu):
        cpus = llvm.cpu_names(device.triple)
        raise TargetError(
            f"{path}: key 'cpu': LLVM has no {device.arch} CPU '{device.cpu}'"
            f"{_suggestion(device.cpu, cpus)}; legal values: {', '.join(cpus)}"
        )
    for feature in device.features:
        if not llvm.is_feature(device.triple, device.cpu, feature[1:]):
            raise TargetError(
                f"{path}: key 'features': LLVM has no {device.arch} feature '{feature[1:]}'; "
                f"{device.cpu} has: "
                f"{', '.join(sorted(llvm.enabled_features(device.triple, device.cpu)))}"
            )
    enabled = llvm.enabled_features(device.triple, device.cpu, device.features)
    bits = llvm.vector_bits(enabled)
    if device.lanes * 32 > bits:
        raise TargetError(
            f"{path}: key 'lanes': {device.lanes} float32 lanes need {device.lanes * 32}-bit "
            f"vectors, {device.cpu} with these features has {bits} bits"
        )
    if device.fma and device.arch == "x86_64" and "fma" not in enabled:
        raise TargetError(
            f"{path}: key 'fma': {device.cpu} has no FMA; set it to false, or add \"+fma\""
        )


def _fail(path: Path, key: str, value: object, legal: Sequence[object]) -> NoReturn:
    values = ", ".join(repr(item) for item in legal)
    raise TargetError(f"{path}: key '{key}' can't be {value!r}; legal values: {values}")


def _suggestion(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
