"""What the LLVM inside TVM knows about CPUs: their names, their features, and this machine's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tvm

ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
"""First parts of the triples that edgeconv generates code for."""

UNROLL_LITTLE = "-unroll-threshold-aggressive:uint=100"
"""LLVM option: loops are unrolled up to 100 instructions, not 300. Schedules unroll what should be;
LLVM would unroll the reduction around a register tile too, hoist its loads, and spill. (TVM only
sets values: options that LLVM wants given explicitly, as -unroll-threshold is, have no effect.)"""

# Beginnings of the names of x86 features that LLVM uses in plain code without being asked. A CPU's
# name promises system instructions too (pku, wbnoinvd, …), which virtual machines often hide.
_X86_EXTENSIONS = (
    *("sse", "ssse", "avx", "fma", "f16c", "bmi", "popcnt", "lzcnt", "movbe", "cx16"),
    *("gfni", "xop", "tbm", "egpr", "ndd", "nf", "ccmp", "ppx", "push2pop2", "zu"),
)
# The same for ARM, whole names. LLVM names those of an ARM host only when it sees them; what its
# CPU has besides follows from the CPU's name.
_ARM_EXTENSIONS = ("neon", "fullfp16", "dotprod", "lse", "rdm", "bf16", "i8mm", "sve", "sve2")


def architecture(triple: str) -> str:
    """The first part of an LLVM triple: "aarch64" of "aarch64-linux-gnu"."""
    return triple.split("-", 1)[0]


def target(triple: str, cpu: str, features: Sequence[str] = ()) -> tvm.target.Target:
    """A plain TVM target to ask LLVM questions with."""
    attributes: dict[str, object] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    if features:
        attributes["mattr"] = list(features)
    return tvm.target.Target(attributes)


def cpu_names(triple: str) -> list[str]:
    """Every CPU name LLVM has for the architecture of `triple`, sorted."""
    list_cpus = tvm.get_global_func("target.llvm_get_cpu_archlist")
    return sorted(str(name) for name in list_cpus(target(triple, "generic")))


def is_cpu(triple: str, cpu: str) -> bool:
    """Whether LLVM knows `cpu`; code generation takes an unknown one silently for "generic"."""
    return bool(tvm.get_global_func("target.llvm_is_valid_cpu")(cpu, triple))


def is_feature(triple: str, cpu: str, name: str) -> bool:
    """Whether LLVM knows the feature `name` (without sign); it ignores an unknown one."""
    return name in enabled_features(triple, cpu, (f"+{name}",))


def enabled_features(triple: str, cpu: str, features: Sequence[str] = ()) -> frozenset[str]:
    """Names of all features on for `cpu` with `features` ("+name", "-name") applied."""
    list_features = tvm.get_global_func("target.llvm_get_cpu_features")
    return frozenset(str(name) for name in list_features(target(triple, cpu, features)))


def vector_bits(features: frozenset[str]) -> int:
    """Width in bits of the widest vector registers the features give; 0 when there are none.

    `target.llvm_get_vector_width` can't be used: it answers 512 for every x86-64 CPU.
    """
    for name, bits in (("avx512f", 512), ("avx", 256), ("sse2", 128), ("neon", 128)):
        if name in features:
            return bits
    return 0


@functools.cache
def host_triple() -> str:
    """Triple of this machine, in the plain spelling cross compilers use ("x86_64-linux-gnu")."""
    triple = str(tvm.get_global_func("target.llvm_get_system_triple")())
    if "linux" in triple and "gnueabi" not in triple:
        return f"{architecture(triple)}-linux-gnu"
    return triple


@functools.cache
def host_cpu() -> str:
    """LLVM's name of this machine's CPU, "generic" when LLVM doesn't recognise it."""
    cpu = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    return cpu if is_cpu(host_triple(), cpu) else "generic"


@functools.cache
def host_feature_flags() -> tuple[tuple[str, bool], ...]:
    """Each feature LLVM looked for on this machine, and whether it is there, sorted by name.

    A virtual machine can lack what its CPU name promises, so the name alone isn't enough.
    """
    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    flags = {str(name): bool(on) for name, on in found.items()}
    if architecture(host_triple()) != "x86_64":
        implied = enabled_features(host_triple(), host_cpu())
        for name in _ARM_EXTENSIONS:
            flags.setdefault(name, name in implied)
    return tuple(sorted(flags.items()))


@functools.cache
def host_lacks() -> frozenset[str]:
    """Features that LLVM would use in compiled code and this machine doesn't have."""
    lacking = (name for name, on in host_feature_flags() if not on)
    if architecture(host_triple()) == "x86_64":
        return frozenset(name for name in lacking if name.startswith(_X86_EXTENSIONS))
    return frozenset(name for name in lacking if name in _ARM_EXTENSIONS)


def used_extensions(arch: str, features: frozenset[str]) -> frozenset[str]:
    """Those of the features that decide whether code runs: LLVM uses them without being asked."""
    if arch == "x86_64":
        return frozenset(name for name in features if name.startswith(_X86_EXTENSIONS))
    return frozenset(features.intersection(_ARM_EXTENSIONS))
