"""One CPU as data: what code generation and the schedules' default knobs need to know of it."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import tvm

from edgeconv.errors import TargetError
from edgeconv.targets import llvm


@dataclass(frozen=True)
class Device:
    """A CPU to compile for. Caches are in KiB, counted as one core can reach them."""

    name: str
    """Name of the TOML file without its ending, or "host"."""
    description: str
    """One line for `edgeconv targets`."""
    triple: str
    """LLVM triple, such as "aarch64-linux-gnu"."""
    cpu: str
    """LLVM's name of the CPU (mcpu)."""
    lanes: int
    """float32 lanes of one vector register."""
    vector_registers: int
    """Vector registers the instruction set names."""
    fma: bool
    """Whether a multiply and an add are one instruction."""
    fma_ports: int
    """Full-width multiply-adds one core can start in a cycle."""
    l1d_kib: int
    """First-level data cache of one core."""
    l2_kib: int
    """Second-level cache one core can reach, shared or not."""
    l3_kib: int
    """Last-level cache; 0 when there is none."""
    cores: int
    """Cores a model may use."""
    load_ports: int = 2
    """Vector loads one core can start in a cycle."""
    features: tuple[str, ...] = ()
    """LLVM features (mattr) on top of the CPU's own, each with its sign: "+neon"."""
    abi: str = ""
    """Floating-point ABI: "hard" on 32-bit ARM, else empty."""
    ghz: float | None = None
    """Highest clock with all cores busy, in GHz; None when unknown."""

    @property
    def arch(self) -> str:
        """Architecture, the first part of the triple: "x86_64", "aarch64" or "armv7l"."""
        return llvm.architecture(self.triple)

    @property
    def memory_operands(self) -> bool:
        """Whether arithmetic takes operands straight from memory, so that they need no register."""
        return self.arch == "x86_64"

    @property
    def in_halves(self) -> bool:
        """Whether it runs its vectors in two halves, as Zen 4 does those of 512 bits."""
        return self.lanes == 16 and self.load_ports == 1 and self.memory_operands

    def with_vectors_of(self, lanes: int) -> Device:
        """The device for kernels whose vectors have so many lanes: where it runs its own in two
        halves, it starts twice as many of half the length.
        """
        if not self.in_halves or 2 * lanes > self.lanes:
            return self
        return _with_twice_the_ports(self)

    def load_cycles(self, vectors: float, elements: float) -> float:
        """Cycles in which one core loads so many vectors, and so many elements that are broadcast:
        where it loads a vector in two halves, elements take half as long.
        """
        element_loads = max(2, self.load_ports) if self.memory_operands else self.load_ports
        return vectors / self.load_ports + elements / element_loads

    @property
    def is_native(self) -> bool:
        """Whether code for this device can run on the machine we're on."""
        if self.arch != llvm.architecture(llvm.host_triple()):
            return False
        wanted = llvm.enabled_features(self.triple, self.cpu, self.features)
        return wanted.isdisjoint(llvm.host_lacks())

    def tvm_target(self, threads: int | None = None) -> tvm.target.Target:
        """The TVM target of this device, for `threads` threads (default: all its cores).

        Raises TargetError when `threads` is not a positive whole number.
        """
        count = self.cores if threads is None else threads
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise TargetError(
                f"target '{self.name}': threads must be a positive whole number, not {threads!r}"
            )
        attributes: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.cpu,
            "num-cores": count,
        }
        if self.features:
            attributes["mattr"] = list(self.features)
        if self.abi:
            attributes["mfloat-abi"] = self.abi
        if not self.memory_operands:
            attributes["cl-opt"] = [llvm.UNROLL_LITTLE]
        return tvm.target.Target(attributes)


@functools.lru_cache(maxsize=16)
def _with_twice_the_ports(device: Device) -> Device:
    ports = (2 * device.fma_ports, 2 * device.load_ports)
    return dataclasses.replace(device, fma_ports=ports[0], load_ports=ports[1])
