"""What a board is, read on the board itself: CPU, features, caches, clock, memory, versions.

Runs under the server, with the standard library alone; interpreted by `edgeconv.device.info`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import struct
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeconv.version import __version__

PROTOCOL = 1
"""Version of what server and client say to each other beyond TVM's own RPC."""

_CPUS = Path("/sys/devices/system/cpu")
_AT_HWCAP, _AT_HWCAP2 = 16, 26


def describe(work: str | None = None) -> dict[str, Any]:
    """Everything, as JSON types; what the system doesn't publish is None, empty or left out.

    `work` is the folder of the sessions' files; default: the system's temporary folder.
    """
    cpuinfo = read_text(Path("/proc/cpuinfo")) or ""
    return {
        "protocol": PROTOCOL,
        "versions": {
            "edgeconv": __version__,
            "apache-tvm": _version("apache-tvm"),
            "apache-tvm-ffi": _version("apache-tvm-ffi"),
            "python": platform.python_version(),
        },
        "machine": architecture(),
        "model": _model(cpuinfo),
        "system": _system(),
        "hwcap": [_auxiliary(_AT_HWCAP), _auxiliary(_AT_HWCAP2)],
        "flags": sorted(_flags(cpuinfo)),
        "parts": cpu_parts(cpuinfo),
        "cores": sorted(_usable_cores()),
        "caches": caches(),
        "max_khz": _number(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq"),
        "clock": clock(),
        "memory_kib": _memory("MemTotal"),
        "free_memory_kib": _memory("MemAvailable"),
        "free_disk": shutil.disk_usage(work or tempfile.gettempdir()).free,
        "work": work or tempfile.gettempdir(),
        "emulated": emulated(),
        "pid": os.getpid(),
    }


def architecture() -> str:
    """ "x86_64", "aarch64" or "armv7l": of the process, not of the kernel."""
    machine = platform.machine()
    if machine in ("aarch64", "arm64", "armv8l") and struct.calcsize("P") == 4:
        return "armv7l"  # a 32-bit system on a 64-bit kernel
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(machine, machine)


def emulated() -> bool:
    """Whether QEMU's user-mode emulation runs this process. It shows itself in the true program."""
    with contextlib.suppress(OSError):  # /proc/self/exe is one of the few that QEMU forges
        return Path(os.readlink("/proc/thread-self/exe")).name.startswith("qemu-")
    return False


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_text(path: Path) -> str | None:
    """The file's text without its end, or None."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _model(cpuinfo: str) -> str:
    """ "Raspberry Pi 4 Model B Rev 1.4", or the processor's name."""
    tree = read_text(Path("/proc/device-tree/model"))
    if tree:
        return tree
    for key in ("Model", "model name", "Hardware"):
        for value in _values(cpuinfo, key):
            return value
    return ""


def _system() -> str:
    for line in (read_text(Path("/etc/os-release")) or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _values(cpuinfo: str, key: str) -> list[str]:
    rows = (line.partition(":") for line in cpuinfo.splitlines())
    return [value.strip() for name, _, value in rows if name.strip() == key and value.strip()]


def _flags(cpuinfo: str) -> set[str]:
    """Flags that every core has."""
    rows = [set(v.split()) for k in ("flags", "Features") for v in _values(cpuinfo, k)]
    return set.intersection(*rows) if rows else set()


def cpu_parts(cpuinfo: str) -> list[list[int]]:
    """[implementer, part] of each kind of ARM core, most frequent last; empty elsewhere."""
    found: dict[tuple[int, int], int] = {}
    makers, parts = _values(cpuinfo, "CPU implementer"), _values(cpuinfo, "CPU part")
    for maker, part in zip(makers, parts, strict=False):
        try:
            key = int(maker, 0), int(part, 0)
        except ValueError:
            continue
        found[key] = found.get(key, 0) + 1
    return [list(key) for key in sorted(found, key=lambda k: found[k])]


def _auxiliary(kind: int) -> int:
    """What the kernel told this process about the CPU at its start (getauxval); 0 if nothing."""
    try:
        function = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return 0
    function.restype, function.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(function(kind))


def _usable_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def caches(cpu0: Path = _CPUS / "cpu0") -> dict[str, int]:
    """KiB of the data or unified cache of each level the first core sees."""
    sizes: dict[str, int] = {}
    for index in sorted(cpu0.glob("cache/index*")):
        level, kind, size = (read_text(index / n) or "" for n in ("level", "type", "size"))
        unit = {"K": 1, "M": 1024}.get(size[-1:], 0)
        if kind != "Instruction" and level.isdigit() and unit and size[:-1].isdigit():
            sizes[level] = int(size[:-1]) * unit
    return sizes


def clock() -> dict[str, Any]:
    """Governor, frequency of each core, temperature and throttling, where readable.

    `throttled` is the word of the Raspberry Pi's firmware (bit 0: under-voltage now, 1: frequency
    capped now, 2: throttled now, 3: temperature limit now; 16 to 19: the same since boot).
    """
    governors, frequencies = set(), []
    for folder in sorted(_CPUS.glob("cpu[0-9]*/cpufreq")):
        governors.add(read_text(folder / "scaling_governor") or "")
        frequencies.append(_number(folder / "scaling_cur_freq"))
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    degrees = [t / 1000 for z in zones if (t := _number(z)) is not None and t > 0]
    throttled = read_text(Path("/sys/devices/platform/soc/soc:firmware/get_throttled"))
    try:
        word = int(throttled, 16) if throttled else None
    except ValueError:
        word = None
    return {
        "governors": sorted(governors - {""}),
        "khz": [f for f in frequencies if f],
        "celsius": max(degrees, default=None),
        "throttled": word,
    }


def _memory(key: str) -> int | None:
    for value in _values(read_text(Path("/proc/meminfo")) or "", key):
        return int(value.split()[0])
    return None


if __name__ == "__main__":
    import json

    json.dump(describe(), sys.stdout, indent=1)
