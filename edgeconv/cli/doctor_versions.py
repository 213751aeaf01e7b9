"""Versions, from package metadata: nothing is imported, since a wrong TVM can crash."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

from edgeconv.checks import FAULT, OK, WARNING, Check
from edgeconv.version import __version__

SECTION, EXTRAS_SECTION = "Versions", "Extras"
OLDEST_PYTHON = (3, 10)

# Requirements as in pyproject.toml: package, first version, first version that won't do, and what
# fails without it. A test compares the two.
REQUIRED: tuple[tuple[str, str, str, str], ...] = (
    ("apache-tvm", "0.27", "0.28", ""),
    ("apache-tvm-ffi", "0.1.14.post0", "0.1.15", ""),
    ("onnx", "1.17", "", ""),
    ("numpy", "1.26", "", ""),
    ("protobuf", "", "", ""),
    ("typer", "0.12", "", ""),
    ("rich", "13.8", "", ""),
    ("xgboost", "2.1", "", "tuning"),
    ("psutil", "5.9", "", "tuning"),
    ("cloudpickle", "3.0", "", "tuning"),
    ("tornado", "6.4", "", "device trackers"),
)
CRASHES = {
    "apache-tvm-ffi": "0.1.15 and later crash TVM 0.27",
    "apache-tvm": "edgeconv is written for TVM 0.27, and others differ",
}

# package, extra that installs it, what it is for
OPTIONAL: tuple[tuple[str, str, str], ...] = (
    ("ziglang", "cross", "linker for other architectures"),
    ("onnxruntime", "bench", "peer of the benchmarks, reference of the tests"),
    ("torch", "bench", "peer of the benchmarks"),
    ("ai-edge-litert", "bench", "peer of the benchmarks (TFLite)"),
    ("matplotlib", "bench", "plots"),
    ("pytest", "test", "tests"),
    ("hypothesis", "test", "tests"),
)

Lookup = Callable[[str], str | None]


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def order(version: str) -> tuple[tuple[int, ...], int, int]:
    """A key that sorts versions: 0.1.14rc1 < 0.1.14 < 0.1.14.post1 < 0.1.15."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    numbers = tuple(int(n) for n in match.group(1).split(".")) if match else (0,)
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers = numbers[:-1]
    rest = version[match.end() :] if match else version
    early = re.match(r"[.\-_]?(a|b|c|rc|alpha|beta|pre|dev)", rest) is not None
    post = re.search(r"post(\d+)", rest)
    return numbers, -1 if early else 0, int(post.group(1)) + 1 if post else 0


def fits(version: str, first: str, end: str) -> bool:
    """Whether first <= version < end; an empty bound is none."""
    if end and order(version) >= (order(end)[0], -1, 0):
        return False
    return not first or order(version) >= order(first)


def requirement(package: str, first: str, end: str) -> str:
    """As pip writes it."""
    bounds = ",".join([f">={first}"] * bool(first) + [f"<{end}"] * bool(end))
    return package + bounds


def check_versions(lookup: Lookup = installed) -> Iterator[Check]:
    """Python, and every package edgeconv needs."""
    yield Check(SECTION, "edgeconv", OK, __version__)
    found = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        yield Check(SECTION, "python", OK, f"{found} ({platform.python_implementation()})")
    else:
        yield Check(SECTION, "python", FAULT, found, "install Python 3.10 or later")
    for package, first, end, purpose in REQUIRED:
        yield _check_package(package, first, end, purpose, lookup(package))


def _check_package(package: str, first: str, end: str, purpose: str, found: str | None) -> Check:
    wanted = requirement(package, first, end)
    advice = f"pip install '{wanted}'"
    status = WARNING if purpose else FAULT
    if found is None:
        need = f"not installed; needed for {purpose}" if purpose else "not installed"
        return Check(SECTION, package, status, need, advice)
    if fits(found, first, end):
        return Check(SECTION, package, OK, found)
    reason = CRASHES.get(package, f"edgeconv needs {wanted.removeprefix(package)}")
    return Check(SECTION, package, status, f"{found}: {reason}", advice)


def check_extras(lookup: Lookup = installed) -> Iterator[Check]:
    """Optional packages: none of them missing is a fault."""
    for package, extra, purpose in OPTIONAL:
        found = lookup(package)
        if found is not None:
            yield Check(EXTRAS_SECTION, package, OK, found)
        else:
            advice = f"pip install 'edgeconv[{extra}]'"
            yield Check(EXTRAS_SECTION, package, OK, f"absent (optional: {purpose})", advice)


def tvm_is_usable(checks: list[Check]) -> bool:
    """Whether TVM may be loaded, by what `check_versions` found."""
    vital = ("python", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "protobuf")
    return all(c.status == OK for c in checks if c.section == SECTION and c.name in vital)
