"""Where and with what a result was measured: machine, versions, commit, command."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeconv.benchmarks.peers import OWN, PEERS
from edgeconv.benchmarks.peers.base import package_version
from edgeconv.targets import host
from edgeconv.targets.probe import peak_gflops

PACKAGES = sorted(
    {"apache-tvm", "apache-tvm-ffi", "numpy", "onnx"}
    | {package for peer in PEERS.values() if peer.name != OWN for package in peer.packages}
)


def provenance() -> dict[str, Any]:
    """Everything a reader needs to judge, or repeat, a measurement."""
    device = host()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(Path(a).name for a in [Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "commit": _commit(),
        "cpu": _cpu_name(),
        "llvm_cpu": device.cpu,
        "cores": device.cores,
        "peak_gflops_one_core": round(peak_gflops(device), 1),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {p: v for p in PACKAGES if (v := package_version(p)) is not None},
    }


def _commit() -> str | None:
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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
