"""Reads the assembly of compiled kernels: innermost loops, what is counted in them, llvm-mca."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from edgeconv import codegen
from edgeconv.codegen import Operand, Step
from edgeconv.schedules import Family
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

LABEL = re.compile(r"^(\.?L\w+):")
JUMP = re.compile(r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.?L\w+)\s*$")


@dataclass(frozen=True)
class Isa:
    """How an instruction set writes what is counted."""

    fma: str  # multiply-adds of whole vectors
    vector: str  # any vector register
    stack: str  # an address on the stack
    call: str
    store: str  # of a vector


X86_STORE = r"\tv?movu?a?ps\s+%[xyz]mm\d+, .*\("
# rbp and x29 are registers like any other in kernels without a frame pointer
AVX512 = Isa(r"vfn?m(add|sub)\d+ps.*%zmm", r"%[xyz]mm", r"\(%rsp", r"\tcall", X86_STORE)
AVX2 = Isa(r"vfn?m(add|sub)\d+ps.*%ymm", r"%[xy]mm", r"\(%rsp", r"\tcall", X86_STORE)
NEON = Isa(r"fml[as]\s+v\d+\.4s", r"\b[qdsv]\d+", r"\[sp\b", r"\tblr?\s", r"\tst[rpu]+\s+[qv]\d")

# NEON only
BY_ELEMENT = r"fml[as]\s.*\.s\[\d\]"
LOAD = r"\tld"
STORE = r"\tst"
ARITHMETIC = r"\t(f\w+|uzp\d|zip\d|trn\d|ext|dup|tbl|mov)\s+v\d+\."  # on the multiply-add's pipes


def innermost_loops(assembly: str) -> list[list[str]]:
    """Instructions from a label to the jump back to it, where no other loop lies in between."""
    lines = [line.split("//")[0].rstrip() for line in assembly.splitlines()]
    labels = {m.group(1): i for i, line in enumerate(lines) if (m := LABEL.match(line))}
    loops = [
        (labels[m.group(1)], i)
        for i, line in enumerate(lines)
        if (m := JUMP.match(line)) and labels.get(m.group(1), i) < i
    ]
    inner = [
        (a, b)
        for a, b in loops
        if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)
    ]
    return [[x for x in lines[a : b + 1] if x.startswith("\t")] for a, b in inner]


def matching(lines: list[str], pattern: str) -> list[str]:
    """The lines that hold the pattern."""
    return [line for line in lines if re.search(pattern, line)]


def compiled(family: Family, task: ConvTask, knobs: object, device: Device) -> str:
    """The assembly of one kernel, for as many threads as the device has cores."""
    return kernel_text(family.build(task, knobs, device), 4, device)


def kernel_text(function: Any, count: int, device: Device) -> str:
    """The assembly of a scheduled function of `count` operands."""
    kernel = codegen.with_pointer_parameters(function, "conv")
    operands = tuple(Operand("workspace", 0, 64 * i) for i in range(count))
    main = codegen.main_function([], [], 64, 64 * count, [Step("conv", operands, "conv")])
    module = codegen.build({"conv": kernel, "main": main}, device.tvm_target())
    return str(module.inspect_source("asm"))


def hottest(assembly: str, isa: Isa) -> list[str]:
    """The innermost loop with the most multiply-adds."""
    return max(innermost_loops(assembly), key=lambda lines: len(matching(lines, isa.fma)))


def find_mca() -> str:
    """Path of llvm-mca, plain or with a version; skips the test where there is none."""
    names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(30, 13, -1))]
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip("llvm-mca is not installed (CONTRIBUTING.md)")


@functools.cache
def cycles(instructions: tuple[str, ...], device: Device, repeat: int = 100) -> float:
    """Cycles of one pass through a loop by llvm-mca's model of the CPU: every load hits L1."""
    command = [find_mca(), f"-mtriple={device.triple}", f"-mcpu={device.cpu}"]
    done = subprocess.run(
        [*command, f"-iterations={repeat}"],
        input="\n".join(instructions) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total is not None, done.stdout
    return int(total[1]) / repeat


def model_fma_rate(device: Device) -> float:
    """Vector multiply-adds a cycle of the model: independent ones, nothing else."""
    count = 24
    fmas = tuple(f"\tfmla\tv{i}.4s, v30.4s, v31.s[0]" for i in range(count))
    return count / cycles(fmas, device)
