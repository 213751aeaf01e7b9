"""A target from what a board says about itself, and its TOML file."""

from __future__ import annotations

import json
from dataclasses import fields

from edgeconv import targets
from edgeconv.device.info import BoardInfo
from edgeconv.errors import DeviceError, TargetError
from edgeconv.targets import Device, llvm
from edgeconv.targets.host import arm_ports

_TRIPLES = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "armv7l-linux-gnueabihf",
}
_GENERIC = {"aarch64": "generic", "armv7l": "cortex-a7"}
_X86_LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
_X86_LANES = {"x86-64-v4": 16, "x86-64-v3": 8, "x86-64-v2": 4}
_WRITTEN_FIRST = ("description", "triple", "cpu", "features", "abi")


def detect(info: BoardInfo, name: str = "detected") -> Device:
    """The board as a target: CPU and features by what its kernel reports, caches from its /sys, and
    where those are missing those of a named target with the same CPU, or cautious ones.

    Raises:
        DeviceError: its CPU is none that edgeconv compiles for.
    """
    if info.arch not in _TRIPLES:
        raise DeviceError(
            f"{info.address} is {info.arch}; edgeconv compiles for {', '.join(_TRIPLES)}"
        )
    cpu = _x86_level(info) if info.arch == "x86_64" else _arm_cpu(info)
    triple = _TRIPLES[info.arch]
    known = _relative(info.arch, cpu)
    caches = {int(level): int(kib) for level, kib in info.raw["caches"].items()}
    fma_ports, load_ports = arm_ports(cpu)
    if not caches and known is not None:
        caches = {1: known.l1d_kib, 2: known.l2_kib, 3: known.l3_kib}
    khz = info.raw["max_khz"]
    if info.arch == "armv7l":
        fma_ports = load_ports = 1
    return Device(
        name=name,
        description=f"{info.model or info.arch}: {info.cores} × {cpu}, as detected",
        triple=triple,
        cpu=cpu,
        lanes=_X86_LANES.get(cpu, 4),
        vector_registers=32 if info.arch == "aarch64" or cpu == "x86-64-v4" else 16,
        fma=cpu != "x86-64-v2" and (info.arch != "armv7l" or "vfp4" in info.features),
        fma_ports=1 if cpu == "x86-64-v2" else fma_ports,
        load_ports=load_ports,
        l1d_kib=caches.get(1, 32),
        l2_kib=caches.get(2, 256),
        l3_kib=caches.get(3, 0),
        cores=info.cores,
        features=_features(info, triple, cpu),
        abi="hard" if info.arch == "armv7l" else "",
        ghz=khz / 1e6 if khz else None,
    )


def best_target(info: BoardInfo) -> Device:
    """What to compile for on that board: a named target that matches, else what is detected.

    Raises:
        DeviceError: see `detect`.
    """
    names = info.profiles()
    return targets.load(names[0]) if names else detect(info)


def to_toml(device: Device, comment: str) -> str:
    """A target file; `edgeconv.targets.load` reads it."""
    values = {f.name: getattr(device, f.name) for f in fields(device) if f.name != "name"}
    order = [*_WRITTEN_FIRST, *(key for key in values if key not in _WRITTEN_FIRST)]
    lines = [f"# {' '.join(comment.split())}"]
    for key in order:
        value = list(values[key]) if isinstance(values[key], tuple) else values[key]
        if value not in (None, "", []):
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _x86_level(info: BoardInfo) -> str:
    for cpu in _X86_LEVELS:
        needed = llvm.used_extensions("x86_64", llvm.enabled_features(_TRIPLES["x86_64"], cpu))
        if needed <= info.features:
            return cpu
    raise DeviceError(f"{info.address}: its CPU ({info.model}) has no SSE4.1, which edgeconv needs")


def _arm_cpu(info: BoardInfo) -> str:
    """The kind of core there are most of, by LLVM's name."""
    if "neon" not in info.features:
        raise DeviceError(f"{info.address}: its CPU ({info.cpu_text}) has no NEON")
    for cpu in reversed(info.cpus):
        if llvm.is_cpu(_TRIPLES[info.arch], cpu):
            return cpu
    return _GENERIC[info.arch]


def _relative(arch: str, cpu: str) -> Device | None:
    """A named target with the same CPU."""
    for name in targets.names():
        if name != "host":
            try:
                device = targets.load(name)
            except TargetError:
                continue
            if (device.arch, device.cpu) == (arch, cpu):
                return device
    return None


def _features(info: BoardInfo, triple: str, cpu: str) -> tuple[str, ...]:
    """Corrections to what LLVM assumes for the CPU, of those features that decide."""
    if info.arch == "x86_64":
        return ()
    if info.arch == "armv7l":
        return tuple(f"+{name}" for name in ("neon", "vfp4") if name in info.features)
    assumed = llvm.used_extensions(info.arch, llvm.enabled_features(triple, cpu))
    used = info.features - {"sve", "sve2"}  # no schedule needs them; they change LLVM's own choices
    more = [f"+{name}" for name in sorted(used - assumed)]
    return (*more, *(f"-{name}" for name in sorted(assumed - info.features)))
