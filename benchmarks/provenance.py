"""Where and with what a result was measured: machine, versions, commit, command."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks.peers import OURS, PEERS
from edgeconv.benchmarks.peers.base import package_version
from edgeconv.targets import host
from edgeconv.targets.probe import peak_gflops

PACKAGES = sorted(
    {"apache-tvm", "apache-tvm-ffi", "numpy", "onnx"}
    | {package for peer in PEERS.values() if peer.name not in OURS for package in peer.packages}
)


def provenance() -> dict[str, Any]:
    """Everything a reader needs to judge, or repeat, a measurement."""
    device = host()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        "commit": commit(),
        "cpu": _cpu_name(),
        "llvm_cpu": device.cpu,
        "cores": device.cores,
        "peak_gflops_one_core": round(peak_gflops(device), 1),
        "memory_gb_s_one_core": round(copy_gb_s(), 1),
        "flags": _cpu_flags(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {p: v for p in PACKAGES if (v := package_version(p)) is not None},
    }


def copy_gb_s() -> float:
    """Bytes read and written per nanosecond by one core that copies 64 MiB; the best of five."""
    source = np.ones(2**24, np.float32)
    copied = np.empty_like(source)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        np.copyto(copied, source)
        best = min(best, time.perf_counter() - begin)
    return 2 * source.nbytes / best / 1e9


def _command() -> str:
    """As it was typed, without folders."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.stem
    return " ".join([name, *(Path(a).name or a for a in sys.argv[1:])])


def commit() -> str | None:
    """Of this checkout, "-dirty" behind it where files differ; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_flags() -> str:
    """What the kernel says the CPU can do; empty where it does not say."""
    for line in _cpuinfo():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return " ".join(sorted(flags.split()))
    return ""


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _cpu_name() -> str:
    lines = _cpuinfo()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
