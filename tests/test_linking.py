"""Shared libraries for other architectures: which linker is taken, and what it makes."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import edgeconv
from edgeconv import elf, linking, targets
from edgeconv.device.trial import small_convolution
from edgeconv.errors import BuildError
from edgeconv.linking import find_linker, link, object_code
from edgeconv.targets import Device

HOST = targets.host()
NAMED = {"aarch64": "raspberry-pi-4", "armv7l": "raspberry-pi-2", "x86_64": "x86-avx2"}


@functools.cache
def code(arch: str) -> bytes:
    """An object file with a small network."""
    artifact = edgeconv.compile_artifact(small_convolution().model, NAMED[arch], threads=1)
    return object_code(artifact.module)


def only(monkeypatch: pytest.MonkeyPatch, programs: Sequence[str], *, zig: bool) -> None:
    """A machine with these programs, and perhaps the package ziglang."""
    monkeypatch.setattr(
        "shutil.which", lambda name: f"/usr/bin/{name}" if name in programs else None
    )
    found = importlib.util.find_spec
    spec = found("json") if zig else None
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: spec if name == "ziglang" else found(name)
    )


@pytest.mark.parametrize(
    ("arch", "programs", "taken"),
    [
        ("aarch64", ("cc", "aarch64-linux-gnu-gcc", "ld.lld"), "/usr/bin/aarch64-linux-gnu-gcc"),
        ("aarch64", ("cc", "aarch64-linux-gnu-ld"), "/usr/bin/aarch64-linux-gnu-ld"),
        ("aarch64", ("cc", "ld", "ld.lld"), "/usr/bin/ld.lld"),
        ("aarch64", ("cc", "ld"), "aarch64-linux-gnu.2.28"),
        ("armv7l", ("cc", "arm-linux-gnueabihf-gcc"), "/usr/bin/arm-linux-gnueabihf-gcc"),
        ("armv7l", ("cc",), "arm-linux-gnueabihf.2.28"),
        ("x86_64", ("aarch64-linux-gnu-gcc",), "x86_64-linux-gnu.2.17"),
        ("x86_64", ("x86_64-linux-gnu-gcc",), "/usr/bin/x86_64-linux-gnu-gcc"),
    ],
)
def test_choice(
    arch: str, programs: tuple[str, ...], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a machine of another architecture; zig is there, and comes last."""
    device = targets.load(NAMED[arch])
    monkeypatch.setattr(Device, "is_native", property(lambda self: False))
    only(monkeypatch, programs, zig=True)
    found = find_linker(device)
    assert found is not None
    assert found[-1] == taken
    if len(found) > 1:
        assert found[:4] == [sys.executable, "-m", "ziglang", "cc"]


@pytest.mark.parametrize("arch", NAMED)
def test_advice_where_there_is_none(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "is_native", property(lambda self: False))
    only(monkeypatch, ("cc", "gcc", "ld"), zig=False)
    device = targets.load(NAMED[arch])
    assert find_linker(device) is None
    text = linking.no_linker(device)
    assert f"no linker for {arch} ('{NAMED[arch]}')" in text
    assert "pip install 'edgeconv[cross]'" in text


@pytest.mark.parametrize("arch", NAMED)
def test_the_linker_at_hand(arch: str) -> None:
    """Whatever this machine has for the architecture makes a library for it."""
    linker = find_linker(targets.load(NAMED[arch]))
    if linker is None:
        pytest.skip(f"no linker for {arch} here: pip install 'edgeconv[cross]'")
    assert elf.machine(link(code(arch), linker, arch)) == arch


@pytest.mark.parametrize(
    "arch",
    ["aarch64", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("armv7l", "x86_64"))],
)
def test_zig(arch: str, tmp_path: Path) -> None:
    """The linker from pip, for every architecture; on this one, the result computes.

    zig makes its stubs of a C library for each architecture once, which takes up to a minute.
    """
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no zig here: pip install 'edgeconv[cross]'")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", linking._ZIG_TARGETS[arch]]
    library = link(code(arch), command, arch)
    assert elf.machine(library) == arch
    if targets.load(NAMED[arch]).is_native:
        trial = small_convolution()
        artifact = edgeconv.compile_artifact(trial.model, NAMED[arch], threads=1)
        saved = replace(artifact, module=None, shared_library=library).save(tmp_path / "n.edgeconv")
        assert trial.error(edgeconv.load(saved).run({"x": trial.x})["y"]) < 1e-5


def test_a_linker_that_makes_something_else(tmp_path: Path) -> None:
    program = tmp_path / "ld"
    for made, said in (("\x7fELF", "not an ELF file"), ("text", "not an ELF file")):
        program.write_text(f"#!/bin/sh\nprintf '{made}' > \"$4\"\n", encoding="latin-1")
        program.chmod(0o755)
        with pytest.raises(BuildError, match=said):
            link(b"", [str(program)], "aarch64")
    native = find_linker(HOST)
    assert native is not None
    other = "aarch64" if HOST.arch != "aarch64" else "x86_64"
    with pytest.raises(BuildError, match=f"made a library for {HOST.arch}, not {other}"):
        link(code(HOST.arch), native, other)


def test_elf() -> None:
    header = b"\x7fELF\x02\x01" + bytes(12)
    assert elf.machine(header + b"\xb7\x00") == "aarch64"
    assert elf.machine(header + b"\x28\x00") == "armv7l"
    assert elf.machine(header + b"\xf3\x00") == "ELF machine 243"
    for wrong in (b"", b"\x7fELF", b"MZ" + bytes(30)):
        with pytest.raises(ValueError, match="not an ELF file"):
            elf.machine(wrong)
