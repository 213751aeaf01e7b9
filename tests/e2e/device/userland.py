"""A Linux for AArch64 without a board: Debian's Python and TVM's wheels in a folder, under QEMU.

    python -m tests.e2e.device.userland     makes it, or says why it can't

Needs Debian's or Ubuntu's apt-get and dpkg (no root), pip, and qemu-user-static. What it makes
stays in build/, which git ignores; a second call finds it there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "aarch64"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1")
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_UNUSED = ("libtvm_compiler.so", "libtvm_runtime_cuda.so", "libtvm_runtime_extra.so")
_TIMEOUT = 600  # seconds for a download


class NotPossible(Exception):
    """Why there is no emulated board here."""


def emulator() -> str | None:
    """QEMU's user-mode emulator of AArch64."""
    return next((path for name in EMULATORS if (path := shutil.which(name))), None)


def python() -> Path | None:
    """The program that runs Python in the userland; None where it was not made."""
    program = FOLDER / "python"
    return program if program.exists() and emulator() else None


def environment(**more: str) -> Mapping[str, str]:
    """What a process in the userland needs around it."""
    return {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), **more}


def make() -> Path:
    """Make the userland unless it is there; the program that runs its Python.

    Raises:
        NotPossible: a tool is missing, or a download failed.
    """
    program = FOLDER / "python"
    if program.exists():
        return program
    qemu = emulator()
    tools = [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]
    if qemu is None:
        tools.append(EMULATORS[0])
    if tools:
        raise NotPossible(f"missing: {', '.join(tools)}")
    draft = FOLDER.with_name(f"{FOLDER.name}.{os.getpid()}")
    try:
        _system(draft)
        version = _python_version(draft)
        _packages(draft, version)
        (draft / "apt").rename(draft / ".apt")
        shutil.rmtree(draft / ".apt")
        shutil.rmtree(FOLDER, ignore_errors=True)
        draft.rename(FOLDER)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    (FOLDER / "sitecustomize.py").unlink(missing_ok=True)
    script = (
        "#!/bin/sh\n"
        f"PYTHONHOME='{FOLDER}/root/usr' "
        f"PYTHONPATH='{FOLDER}/site'${{PYTHONPATH:+:$PYTHONPATH}} "
        f"exec '{qemu}' -L '{FOLDER}/root' -0 '{program}' "
        f"'{FOLDER}/root/usr/bin/python{version}' \"$@\"\n"
    )
    program.write_text(script, encoding="utf-8")
    program.chmod(0o755)
    return program


def _system(draft: Path) -> None:
    """Debian packages for arm64, downloaded with an apt state of their own, and unpacked."""
    apt, root = draft / "apt", draft / "root"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    root.mkdir()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root" if os.getuid() == 0 else "",
        "APT::Update::Post-Invoke-Success::": "",
        "Dir::State": str(apt / "state"),
        "Dir::State::status": str(apt / "status"),
        "Dir::Cache": str(apt / "cache"),
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    command = ["apt-get", "-q"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    _run([*command, "update"])
    _run([*command, "-y", "-d", "--no-install-recommends", "install", *PACKAGES])
    archives = sorted((apt / "cache/archives").glob("*.deb"))
    if not archives:
        raise NotPossible("apt-get downloaded nothing")
    for archive in archives:
        _run(["dpkg", "-x", str(archive), str(root)])
    if not (root / "lib").exists():  # where the C library's packages say /lib and mean /usr/lib
        (root / "lib").symlink_to("usr/lib")


def _python_version(draft: Path) -> str:
    found = sorted((draft / "root/usr/bin").glob("python3.*[0-9]"))
    if not found:
        raise NotPossible("no Python among the packages")
    return found[-1].name.removeprefix("python")


def _packages(draft: Path, version: str) -> None:
    """TVM's runtime from its wheels, in the versions installed here."""
    site = draft / "site"
    wanted = [f"{name}=={metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--target", str(site), "--only-binary=:all:", "--python-version", version]
    for platform in ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"):
        command += ["--platform", platform]
    _run([*command, *wanted, "typing_extensions"])
    for name in _UNUSED:
        for path in site.rglob(name):
            path.unlink()
    _run([sys.executable, "-m", "compileall", "-q", "-j", "1", str(site / "tvm_ffi")], check=False)


def _run(command: list[str], check: bool = True) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotPossible(f"{command[0]}: {error}") from error
    if check and done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise NotPossible(f"{' '.join(command[:3])} …: {said}")


if __name__ == "__main__":
    try:
        print(make())
    except NotPossible as error:
        sys.exit(f"no emulated board: {error}")
