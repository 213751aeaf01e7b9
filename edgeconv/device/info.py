"""What a board said about itself, and whether code for a target can run there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgeconv import targets
from edgeconv.device import board
from edgeconv.errors import DeviceError, TargetError
from edgeconv.targets import Device, llvm
from edgeconv.version import __version__

# Bits of AT_HWCAP and AT_HWCAP2 (Linux, uapi/asm/hwcap.h of arm64 and arm), and LLVM's names.
_ARM64_BITS = (
    {1: "neon", 8: "lse", 10: "fullfp16", 12: "rdm", 20: "dotprod", 22: "sve"},
    {1: "sve2", 13: "i8mm", 14: "bf16"},
)
_ARM32_BITS: tuple[dict[int, str], dict[int, str]] = ({12: "neon", 16: "vfp4"}, {})
_ARM32_FEATURES = ("neon", "vfp4")

# Names in /proc/cpuinfo that differ from LLVM's by more than their underscores.
_X86_NAMES = {
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "bmi1": "bmi",
    "abm": "lzcnt",
    "avx512_bitalg": "avx512bitalg",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx_vnni": "avxvnni",
}

# (implementer, part) of ARM cores in /proc/cpuinfo, by LLVM's names. Source: Linux,
# arch/arm64/include/asm/cputype.h.
_PARTS = {
    (0x41, 0xC07): "cortex-a7",
    (0x41, 0xC09): "cortex-a9",
    (0x41, 0xC0F): "cortex-a15",
    (0x41, 0xC0E): "cortex-a17",
    (0x41, 0xD01): "cortex-a32",
    (0x41, 0xD04): "cortex-a35",
    (0x41, 0xD03): "cortex-a53",
    (0x41, 0xD05): "cortex-a55",
    (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72",
    (0x41, 0xD09): "cortex-a73",
    (0x41, 0xD0A): "cortex-a75",
    (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0D): "cortex-a77",
    (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD42): "cortex-a78ae",
    (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD40): "neoverse-v1",
    (0x41, 0xD49): "neoverse-n2",
    (0x4E, 0x004): "carmel",
}


@dataclass(frozen=True)
class BoardInfo:
    """A board, as its server describes it.

    Attributes:
        address: how it was reached.
        model: "Raspberry Pi 4 Model B Rev 1.4", or the processor's name; may be empty.
        system: name of the operating system.
        arch: "aarch64", "armv7l" or "x86_64", of the server's process.
        cpus: LLVM's names of its kinds of cores, as far as they are known.
        features: LLVM's names of those of its features that are known to be there.
        cores: that the server may use.
        versions: of edgeconv, apache-tvm, apache-tvm-ffi and python; None where missing.
        emulated: whether an emulator runs the server, so that its times mean nothing.
        raw: all that `board.describe` found.
    """

    address: str
    model: str
    system: str
    arch: str
    cpus: tuple[str, ...]
    features: frozenset[str]
    cores: int
    versions: dict[str, str | None]
    emulated: bool
    raw: dict[str, Any]

    @staticmethod
    def from_raw(address: str, raw: dict[str, Any]) -> BoardInfo:
        """Interpret what the board sent.

        Raises:
            DeviceError: its edgeconv speaks another protocol, or sent nonsense.
        """
        versions = raw.get("versions")
        theirs = versions.get("edgeconv") if isinstance(versions, dict) else "another version"
        if raw.get("protocol") != board.PROTOCOL:
            raise DeviceError(
                f"{address} runs edgeconv {theirs}, here is {__version__}, and the two don't "
                "understand each other: install the same version on both sides, and start "
                "`edgeconv device serve` anew"
            )
        try:
            arch = raw["machine"]
            if not isinstance(arch, str):
                raise TypeError(arch)
            return BoardInfo(
                address,
                str(raw["model"]),
                str(raw["system"]),
                arch,
                tuple(_PARTS[key] for part in raw["parts"] if (key := tuple(part)) in _PARTS),
                frozenset(_features(arch, raw["hwcap"], raw["flags"])),
                len(raw["cores"]),
                dict(raw["versions"]),
                bool(raw["emulated"]),
                raw,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError(
                f"{address} describes itself in a way not understood: {error!r}"
            ) from None

    def mismatch(self, device: Device) -> str | None:
        """Why code for `device` can't run there, a sentence's second half; None if it can."""
        if device.arch != self.arch:
            return f"it is for {device.arch}, and the board's processes are {self.arch}"
        lacking = sorted(self.missing(device))
        if lacking:
            return (
                f"it is for {device.cpu} and may use {', '.join(lacking)}, which this CPU "
                f"({self.cpu_text}) does not have"
            )
        return None

    def missing(self, device: Device) -> set[str]:
        """Features that code for `device` may use, that decide, and that the board lacks."""
        if device.arch == "armv7l":
            wanted = {f[1:] for f in device.features if f[0] == "+"} | {"neon"}
            return wanted.intersection(_ARM32_FEATURES) - self.features
        enabled = llvm.enabled_features(device.triple, device.cpu, device.features)
        return set(llvm.used_extensions(device.arch, enabled) - self.features)

    @property
    def cpu_text(self) -> str:
        """The CPU in a few words."""
        return ", ".join(self.cpus) or self.model or self.arch

    def version_mismatch(self, compiled_with: str) -> str | None:
        """Why code made by that TVM is refused; None if the board's runtime fits."""
        theirs = self.versions.get("apache-tvm")
        if theirs is None:
            return "the board has no apache-tvm: install it there"
        if _minor(theirs) != _minor(compiled_with):
            return (
                f"it was compiled by TVM {compiled_with}, the board has {theirs}: install "
                f"apache-tvm {_minor(compiled_with)} there, or compile with the board's version"
            )
        return None

    def profiles(self) -> list[str]:
        """Names of the targets that come with edgeconv and whose CPU the board has, best first."""
        found = []
        for name in targets.names():
            try:
                device = targets.load(name) if name != "host" else None
            except TargetError:
                continue
            if device is not None and self.mismatch(device) is None:
                if device.cpu in self.cpus:
                    found.append((device.cores != self.cores, -device.lanes, name))
                elif self.arch == "x86_64":
                    found.append((False, -device.lanes, name))
        return [name for *_, name in sorted(found)]


def _features(arch: str, hwcap: Iterable[int], flags: Iterable[str]) -> set[str]:
    """LLVM's names of the features the kernel reports."""
    if arch == "x86_64":
        return {name for flag in flags for name in (_X86_NAMES.get(flag), flag.replace("_", ""))
                if name}  # fmt: skip
    tables = _ARM64_BITS if arch == "aarch64" else _ARM32_BITS
    return {
        name
        for word, table in zip(hwcap, tables, strict=True)
        for bit, name in table.items()
        if int(word) >> bit & 1
    }


def _minor(version: str) -> str:
    """ "0.27" of "0.27.0.post1"."""
    return ".".join(version.split(".")[:2])


def here() -> BoardInfo:
    """This machine, seen as a board would be."""
    return BoardInfo.from_raw("this machine", board.describe())
