"""The machine: processor, cores this process may use, a folder for temporary files."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeconv.checks import FAULT, OK, WARNING, Check

SECTION = "Machine"
ROOMY = 512 * 2**20  # bytes; code generation and linking write a few copies of the weights

# Instruction sets that decide about speed, by what /proc/cpuinfo calls them.
_FEATURES = {
    "sse4_1": "SSE4.1",
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX-512F",
    "avx512vl": "VL",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "neon": "NEON",
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "dot product",
    "sve": "SVE",
}


def cpu_model(text: str) -> str:
    """Name of the processor in /proc/cpuinfo; empty where it has none (ARM)."""
    for key in ("model name", "Model", "Hardware"):
        for row in text.splitlines():
            name, _, value = row.partition(":")
            if name.strip() == key and value.strip():
                return value.strip()
    return ""


def cpu_features(text: str) -> list[str]:
    """Those of `_FEATURES` that /proc/cpuinfo lists, in that order."""
    flags: set[str] = set()
    for row in text.splitlines():
        name, _, value = row.partition(":")
        if name.strip() in ("flags", "Features"):
            flags.update(value.split())
    return [title for flag, title in _FEATURES.items() if flag in flags]


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Check]:
    """Name and instruction sets, as the kernel tells them."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    machine = platform.machine()
    yield Check(SECTION, "processor", OK, cpu_model(text) or platform.processor() or machine)
    if machine not in ("x86_64", "aarch64"):
        yield Check(
            *(SECTION, "architecture", WARNING, machine),
            "edgeconv is tested on x86_64 and aarch64 Linux only",
        )
    features = cpu_features(text)
    if not features:
        yield Check(SECTION, "instruction sets", OK, "not published by this system")
    elif machine == "x86_64" and not {"AVX2", "FMA"} <= set(features):
        yield Check(
            *(SECTION, "instruction sets", WARNING, ", ".join(features)),
            "no AVX2 with FMA: kernels run at a fraction of the speed; a virtual machine may hide "
            "them, see its CPU settings",
        )
    else:
        yield Check(SECTION, "instruction sets", OK, ", ".join(features))


def cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float | None:
    """CPUs' worth of time the control group grants, v1 or v2; None when there is no limit."""
    try:
        rows = [row.split(":", 2) for row in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    quotas = []
    for _, controllers, path in (row for row in rows if len(row) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        place = base / path.lstrip("/")
        for folder in [place, *place.parents]:  # a limit above counts as well
            quotas.append(_quota_of(folder, bool(controllers)))
            if folder == base:
                break
    return min((q for q in quotas if q is not None), default=None)


def _quota_of(folder: Path, v1: bool) -> float | None:
    try:
        if v1:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        else:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def check_cores(quota: float | None = None) -> Iterator[Check]:
    """Cores of the machine, of this process, and the limit of the control group."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    text = f"{total} in the machine, {usable} for this process"
    if usable < total:
        text += " (affinity: taskset or a container)"
    if quota is None:
        yield Check(SECTION, "cores", OK, f"{text}, no CPU quota")
    elif quota >= usable:
        yield Check(SECTION, "cores", OK, f"{text}, CPU quota {quota:g}")
    else:
        threads = max(1, int(quota))
        yield Check(
            *(SECTION, "cores", WARNING, f"{text}, but a CPU quota of {quota:g} cores"),
            f"pass --threads {threads}: the kernel pauses threads beyond the quota",
        )


def check_temporary_folder() -> Iterator[Check]:
    """Code is generated and linked in it, and loaded from it."""
    advice = "set TMPDIR to a folder you can write to"
    try:
        folder = tempfile.gettempdir()
        with tempfile.NamedTemporaryFile(dir=folder, prefix="edgeconv-") as file:
            file.write(b"edgeconv")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Check(SECTION, "temporary folder", FAULT, str(error), advice)
        return
    text = f"{folder}, {free / 2**30:,.1f} GiB free"
    if free < ROOMY:
        yield Check(SECTION, "temporary folder", WARNING, text, "free some space, or set TMPDIR")
    else:
        yield Check(SECTION, "temporary folder", OK, text)
