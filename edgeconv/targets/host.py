"""The machine we're on, as a Device. Reads LLVM's detection and /sys; needs no outside program."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgeconv.errors import TargetError
from edgeconv.targets import llvm
from edgeconv.targets.device import Device

_CPU0 = Path("/sys/devices/system/cpu/cpu0")

# Cores that start one full-width multiply-add (load) a cycle; all others are taken to start two.
# Sources: Arm's software optimization guides, uops.info.
_ONE_FMA_PORT_ARM = frozenset(
    {"cortex-a35", "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a73"}
    | {"cortex-a75", "cortex-a510", "cortex-a520"}
)
_ONE_LOAD_PORT_ARM = frozenset(
    {"cortex-a35", "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72"}
)
_ONE_FMA_PORT_AVX512 = frozenset(
    {"cannonlake", "icelake-client", "rocketlake", "tigerlake", "znver4"}
)
_ONE_LOAD_PORT_AVX512 = frozenset({"znver4"})  # two of 256 bits


@dataclass(frozen=True)
class _Vectors:
    """What the best usable vector instructions offer."""

    label: str
    lanes: int
    registers: int
    fma: bool
    fma_ports: int
    load_ports: int


def host(cpu0: Path = _CPU0) -> Device:
    """Describe this machine; `cores` counts those this process may use.

    `cpu0` is the folder /sys keeps about the first CPU; a missing entry is replaced by a cautious
    default. Raises TargetError when the CPU has no vector instructions edgeconv can use.
    """
    triple, cpu = llvm.host_triple(), llvm.host_cpu()
    flags = dict(llvm.host_feature_flags())
    vectors = _vectors(llvm.architecture(triple), cpu, flags)
    caches = _caches(cpu0)
    return Device(
        name="host",
        description=f"this machine: {cpu}, {vectors.label}",
        triple=triple,
        cpu=cpu,
        lanes=vectors.lanes,
        vector_registers=vectors.registers,
        fma=vectors.fma,
        fma_ports=vectors.fma_ports,
        load_ports=vectors.load_ports,
        l1d_kib=caches.get(1, 32),
        l2_kib=caches.get(2, 256),
        l3_kib=caches.get(3, 0),
        cores=len(available_cores()),
        features=_features(triple, cpu, flags),
        ghz=_ghz(cpu0),
    )


def arm_ports(cpu: str) -> tuple[int, int]:
    """Multiply-adds and vector loads an ARM core starts in a cycle; (2, 2) for other CPUs."""
    return 1 if cpu in _ONE_FMA_PORT_ARM else 2, 1 if cpu in _ONE_LOAD_PORT_ARM else 2


def _vectors(arch: str, cpu: str, flags: dict[str, bool]) -> _Vectors:
    """Pick the widest instruction set all parts of which are present."""

    def has(*names: str) -> bool:
        return all(flags.get(name, False) for name in names)

    if arch == "x86_64":
        if has("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma"):
            fma_ports = 1 if cpu in _ONE_FMA_PORT_AVX512 else 2
            load_ports = 1 if cpu in _ONE_LOAD_PORT_AVX512 else 2
            return _Vectors("AVX-512", 16, 32, True, fma_ports, load_ports)
        if has("avx2", "fma"):
            return _Vectors("AVX2", 8, 16, True, 2, 2)
        if has("sse4.1"):
            return _Vectors("SSE4", 4, 16, False, 1, 2)
    elif arch == "aarch64" and has("neon"):
        return _Vectors("NEON", 4, 32, True, *arm_ports(cpu))
    raise TargetError(
        f"this machine ({arch}, {cpu}) has none of AVX-512, AVX2 with FMA, SSE4.1 and 64-bit NEON; "
        "name the target explicitly: `edgeconv targets` lists them"
    )


def _features(triple: str, cpu: str, flags: dict[str, bool]) -> tuple[str, ...]:
    """Corrections to what LLVM assumes for `cpu`: "+" for what it has more, "-" for less.

    LLVM's tuning of most Intel cores keeps vectors at 256 bits to save clock speed; convolutions
    gain more from 512, so that preference is taken back where it is set.
    """
    assumed = llvm.enabled_features(triple, cpu)
    more = [f"+{name}" for name, on in flags.items() if on and name not in assumed]
    less = [f"-{name}" for name, on in flags.items() if not on and name in assumed]
    if "prefer-256-bit" in assumed:
        less.append("-prefer-256-bit")
    return (*sorted(more), *sorted(less))


def _caches(cpu0: Path) -> dict[int, int]:
    """KiB of the data or unified cache of each level; empty where /sys doesn't tell."""
    sizes: dict[int, int] = {}
    for index in sorted(cpu0.glob("cache/index*")):
        try:
            kind, level, size = (
                (index / entry).read_text(encoding="ascii").strip()
                for entry in ("type", "level", "size")
            )
            kib = int(size[:-1]) * {"K": 1, "M": 1024}[size[-1]]
            if kind != "Instruction" and kib > 0:
                sizes[int(level)] = kib
        except (OSError, ValueError, KeyError, IndexError):
            continue  # boards differ in what they publish; the caller has defaults
    return sizes


def available_cores() -> set[int]:
    """CPUs this process may run on: `taskset` and container CPU sets count."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system gives it; on ARM the board's, or LLVM's name."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = dict(reversed([line.split(":", 1) for line in lines if ":" in line]))
    named = {key.strip(): value.strip() for key, value in facts.items()}
    return named.get("model name") or named.get("Model") or llvm.host_cpu()


def _ghz(cpu0: Path) -> float | None:
    """Highest clock in GHz, or None where the kernel doesn't publish it (virtual machines)."""
    try:
        khz = int((cpu0 / "cpufreq/cpuinfo_max_freq").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return khz / 1e6 if khz > 0 else None
