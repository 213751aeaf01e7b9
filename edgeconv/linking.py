"""Shared libraries from LLVM's object files, with the linker this machine has for the target."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeconv import elf
from edgeconv.errors import BuildError
from edgeconv.targets import Device

_PACKAGES = {
    "aarch64": "gcc-aarch64-linux-gnu",
    "armv7l": "gcc-arm-linux-gnueabihf",
    "x86_64": "gcc-x86-64-linux-gnu",
}
_ARCH_PREFIXES = {
    "aarch64": ("aarch64-linux-gnu-",),
    "armv7l": ("arm-linux-gnueabihf-",),
    "x86_64": ("x86_64-linux-gnu-",),
}
_ZIG_TARGETS = {
    "aarch64": "aarch64-linux-gnu.2.28",
    "armv7l": "arm-linux-gnueabihf.2.28",
    "x86_64": "x86_64-linux-gnu.2.17",
}
LINK_TIMEOUT = 180  # seconds; zig builds its C library stubs on first use


def find_linker(device: Device) -> list[str] | None:
    """The command that links a shared library for the device, up to its arguments; None if there is
    none.
    """
    names: list[str] = []
    if device.is_native:
        names += ["cc", "gcc", "clang"]
    for prefix in _ARCH_PREFIXES.get(device.arch, ()):
        names += [f"{prefix}gcc", f"{prefix}ld"]
    names.append("ld" if device.is_native else "ld.lld")  # lld links for every architecture
    for name in names:
        path = shutil.which(name)
        if path:
            return [path]
    if importlib.util.find_spec("ziglang") is not None and device.arch in _ZIG_TARGETS:
        return [sys.executable, "-m", "ziglang", "cc", "-target", _ZIG_TARGETS[device.arch]]
    return None


def advice(arch: str) -> str:
    """How to get a linker for the architecture: "install …", in the middle of a sentence."""
    package = _PACKAGES.get(arch)
    other = "`pip install 'edgeconv[cross]'` (the linker of zig)"
    return f"install {package} (apt), or {other}" if package else other


def no_linker(device: Device) -> str:
    """What to say where there is none."""
    return f"no linker for {device.arch} ('{device.name}') here: {advice(device.arch)}"


def object_code(library: Any) -> bytes:
    """The relocatable object file of a built module."""
    with tempfile.TemporaryDirectory(prefix="edgeconv-") as folder:
        path = Path(folder, "net.o")
        library.write_to_file(str(path), "o")
        return path.read_bytes()


def link(code: bytes, command: Sequence[str], arch: str) -> bytes:
    """The shared library for `arch` made of one object file.

    Raises:
        BuildError: the linker failed (the message holds its words), or made something else.
    """
    with tempfile.TemporaryDirectory(prefix="edgeconv-") as folder:
        source, target = Path(folder, "net.o"), Path(folder, "net.so")
        source.write_bytes(code)
        try:
            done = subprocess.run(
                [*command, "-shared", "-s", "-o", str(target), str(source)],
                capture_output=True,
                text=True,
                timeout=LINK_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"linker {command[0]} failed: {error}") from error
        if done.returncode or not target.exists():
            raise BuildError(f"linker {command[0]} failed: {done.stderr.strip()[-500:]}")
        library = target.read_bytes()
    try:
        made = elf.machine(library)
    except ValueError as error:
        made = str(error)
    if made != arch:
        raise BuildError(f"linker {command[0]} made a library for {made}, not {arch}")
    return library
