"""The checks that need TVM, in a process of their own: a broken TVM may take it down.

The child writes one JSON object a finding; the parent reads what it got to, and says how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edgeconv.checks import FAULT, OK, WARNING, Check, carried_out

SECTION = "Compiler"
TIMEOUT = 300  # seconds; the checks take some ten, zig's first link a minute
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgeconv.cli.doctor_native import child; child()"
)


def check_native(code: str = _CHILD, timeout: float = TIMEOUT) -> Iterator[Check]:
    """Run `child` in a process of its own; its findings, and a fault if it did not end well."""
    command = [sys.executable, "-c", code, json.dumps(sys.path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        yield from _findings(error.stdout or b"")
        yield Check(SECTION, "TVM", FAULT, f"hung: stopped after {timeout:g} s", _REINSTALL)
        return
    except OSError as error:
        yield Check(SECTION, "TVM", FAULT, f"can't start Python: {error}", "check the installation")
        return
    yield from _findings(done.stdout)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        how = f"exit status {done.returncode}"
        if done.returncode < 0:
            how = f"crashed with {signal.Signals(-done.returncode).name}"
        yield Check(SECTION, "TVM", FAULT, ": ".join([how, *last])[:400], _REINSTALL)


_REINSTALL = "install edgeconv in a fresh virtual environment; if that doesn't help, report it"


def _findings(text: bytes) -> Iterator[Check]:
    for row in text.decode(errors="replace").splitlines():
        try:
            yield Check(**json.loads(row))
        except (ValueError, TypeError):
            continue  # the row it was writing when it died


def child() -> None:
    """All checks, each written as it is made; stdout belongs to them alone."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parts = (
        ("TVM", check_tvm),
        ("host target", check_host),
        ("linkers", check_linkers),
        ("convolution", check_convolution),
    )
    for check in carried_out(SECTION, parts):
        channel.write(json.dumps(asdict(check)) + "\n")
        channel.flush()
        if check.name == "TVM" and check.status == FAULT:
            return  # nothing else can work


def check_tvm() -> Iterator[Check]:
    """It loads, and has LLVM."""
    import tvm

    version = tvm.get_global_func("target.llvm_version_major", allow_missing=True)
    if version is None:
        yield Check(
            *(SECTION, "TVM", FAULT, f"{tvm.__version__} was built without LLVM"),
            "pip install --force-reinstall 'apache-tvm>=0.27,<0.28'",
        )
    else:
        yield Check(SECTION, "TVM", OK, f"{tvm.__version__} loads, with LLVM {version()}")


def check_host() -> Iterator[Check]:
    """What `--target host` means here, and how fast it can be at best."""
    from edgeconv.errors import TargetError
    from edgeconv.targets import host
    from edgeconv.targets.probe import peak_gflops

    try:
        device = host()
    except TargetError as error:
        yield Check(SECTION, "host target", FAULT, str(error), "name a target: edgeconv targets")
        return
    caches = "/".join(f"{k}" for k in (device.l1d_kib, device.l2_kib, device.l3_kib) if k)
    yield Check(
        *(SECTION, "host target", OK),
        f"{device.cpu}: {device.lanes} lanes, {device.vector_registers} registers, "
        f"caches {caches} KiB, {device.cores} {'core' if device.cores == 1 else 'cores'}",
    )
    if device.cpu == "generic":
        yield Check(
            *(SECTION, "host CPU", WARNING, "LLVM doesn't know this processor by name"),
            "write a TOML target for it (edgeconv targets host shows the values)",
        )
    peak = peak_gflops(device)
    yield Check(SECTION, "multiply-add peak", OK, f"{peak:.1f} GFLOP/s on one core, measured")


def check_linkers() -> Iterator[Check]:
    """For this machine, and for the devices people compile for from a PC."""
    from edgeconv import targets
    from edgeconv.linking import advice, find_linker
    from edgeconv.targets import llvm

    host = targets.host()
    others = {
        "aarch64": ("aarch64-linux-gnu", "cortex-a72", ""),
        "armv7l": ("armv7l-linux-gnueabihf", "cortex-a53", "hard"),
    }
    devices = {host.arch: host}
    for arch, (triple, cpu, abi) in others.items():
        if arch != llvm.architecture(llvm.host_triple()):
            devices[arch] = targets.Device(
                **{**vars(host), "name": arch, "triple": triple, "cpu": cpu, "abi": abi},
            )
    for arch, device in devices.items():
        name, found = f"linker {arch}", find_linker(device)
        if found is not None:
            shown = "zig" if "ziglang" in found else found[0]
            yield Check(SECTION, name, OK, shown)
        elif device is host:
            hint = "install a C compiler (apt install gcc), or pip install 'edgeconv[cross]'"
            yield Check(SECTION, name, FAULT, "none: saved models can't be loaded", hint)
        else:
            text = f"none: models for {arch} are linked on the device, which then needs gcc"
            yield Check(SECTION, name, WARNING, text, advice(arch))


def check_convolution() -> Iterator[Check]:
    """The whole way once: compile, save, load, run, compare with NumPy."""
    from edgeconv import api
    from edgeconv.device.trial import TOLERANCE, small_convolution

    trial = small_convolution()
    compiled = api.compile(trial.model, threads=1)
    results = {"compiled": compiled.run({"x": trial.x})["y"]}
    with tempfile.TemporaryDirectory(prefix="edgeconv-") as folder:
        saved = compiled.save(Path(folder, "doctor.edgeconv"))
        results["saved and loaded"] = api.load(saved).run({"x": trial.x})["y"]
    for how, result in results.items():
        error = trial.error(result)
        fine = error <= TOLERANCE
        text = f"{how}: relative error {error:.1e}"
        hint = "" if fine else "results are wrong: report it with this output"
        yield Check(SECTION, "convolution", OK if fine else FAULT, text, hint)
