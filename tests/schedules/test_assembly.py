"""The machine code of hot loops: as many multiply-adds as the tile has, and no register spilled."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from edgeconv import codegen, strategy
from edgeconv.codegen import Operand, Step
from edgeconv.layout import Layout
from edgeconv.strategy import Choice
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.kernels import device

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
AVX512 = Isa(r"vfn?m(add|sub)\d+ps.*%zmm", r"%[xyz]mm", r"\(%rsp", r"\tcall", X86_STORE)
AVX2 = Isa(r"vfn?m(add|sub)\d+ps.*%ymm", r"%[xy]mm", r"\(%rsp", r"\tcall", X86_STORE)
NEON = Isa(
    r"fml[as]\s+v\d+\.4s", r"\b[qv]\d+", r"\[(sp\b|x29, #-)", r"\tblr?\s", r"\tst[rpu]+\s+[qv]\d"
)
TARGETS = {"x86-avx512": AVX512, "x86-avx2": AVX2, "raspberry-pi-4": NEON, "raspberry-pi-5": NEON}


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


def compiled(
    target: str, conv: Conv2d, *, exact: bool = True, cores: int = 1
) -> tuple[Choice, str]:
    """The strategy's choice for a convolution in channel blocks, and its assembly."""
    cpu = device(target, cores)
    task = ConvTask(
        conv, Layout(cpu.lanes, conv.padding), Layout(cpu.lanes), True, None, ("relu", ())
    )
    choice = strategy.choose(task, cpu, exact=exact)
    kernel = codegen.with_pointer_parameters(choice.family.build(task, choice.knobs, cpu), "conv")
    operands = tuple(Operand("workspace", 0, 64 * i) for i in range(4))
    main = codegen.main_function([], [], 64, 256, [Step("conv", operands, "conv")])
    module = codegen.build({"conv": kernel, "main": main}, cpu.tvm_target(cores))
    return choice, module.inspect_source("asm")


def matching(lines: list[str], pattern: str) -> list[str]:
    """The lines that hold the pattern."""
    return [line for line in lines if re.search(pattern, line)]


def hot_loop(target: str, conv: Conv2d) -> tuple[Choice, list[str]]:
    """The innermost loop with the most multiply-adds."""
    choice, assembly = compiled(target, conv)
    loops = innermost_loops(assembly)
    return choice, max(loops, key=lambda lines: len(matching(lines, TARGETS[target].fma)))


def check(target: str, conv: Conv2d, fmas_a_tile: int) -> None:
    check_loop(target, *hot_loop(target, conv), fmas_a_tile)


def check_loop(target: str, choice: Choice, lines: list[str], fmas_a_tile: int) -> None:
    isa = TARGETS[target]
    fmas = len(matching(lines, isa.fma))
    assert fmas >= fmas_a_tile, (choice.knobs_text, fmas)
    assert fmas % fmas_a_tile == 0, (choice.knobs_text, fmas)  # LLVM may unroll the loop further
    spills = [x for x in matching(lines, isa.stack) if re.search(isa.vector, x)]
    assert not spills, (choice.knobs_text, len(spills), spills[:4])
    assert not matching(lines, isa.call)
    assert fmas > len(lines) / 3, (choice.knobs_text, fmas, len(lines))


def tile(target: str, conv: Conv2d) -> int:
    """Multiply-adds of one pass through the innermost loop, by the knobs."""
    choice, _ = compiled(target, conv)
    knobs = choice.knobs
    assert choice.family.name == "grouped_spatial_pack"
    return (
        knobs.rows * knobs.columns * knobs.vectors * (conv.kernel_size[1] if knobs.unroll_kw else 1)
    )


CONVOLUTIONS = {
    "dense 3x3": Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1)),
    "strided 3x3": Conv2d(1, 64, 28, 28, 128, (3, 3), (2, 2), (1, 1, 1, 1)),
    "pointwise": Conv2d(1, 128, 14, 14, 128, (1, 1)),
}


# LLVM unrolls the loop over the four channels of a block, and the rows of the kernel, for these
# CPUs, hoists the loads, and runs out of registers.
SPILLS = {("raspberry-pi-5", "dense 3x3"), ("raspberry-pi-5", "pointwise")}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_hot_loop(target: str, name: str, request: pytest.FixtureRequest) -> None:
    if (target, name) in SPILLS:
        request.applymarker(pytest.mark.xfail(reason="LLVM unrolls too much", strict=True))
    conv = CONVOLUTIONS[name]
    check(target, conv, tile(target, conv))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("cores", [1, 2])
def test_products_of_winograd(target: str, groups: int, cores: int) -> None:
    """The loops of the matrix products: those with multiply-adds and no other arithmetic."""
    conv = Conv2d(1, 128, 28, 28, 128, (3, 3), padding=(1, 1, 1, 1), groups=groups)
    choice, assembly = compiled(target, conv, exact=False, cores=cores)
    assert choice.family.name == "winograd"
    isa = TARGETS[target]
    other = r"\tv?f?(add|sub|mul)(ps)?\b.*(mm|v\d)"
    loops = [x for x in innermost_loops(assembly) if matching(x, isa.fma)]
    products = [x for x in loops if not matching(x, other)]
    assert products
    for lines in products:
        assert not matching(lines, isa.store), matching(lines, isa.store)[:4]
        check_loop(target, choice, lines, choice.knobs.rows * choice.knobs.vectors)


def test_the_parser_finds_loops() -> None:
    text = """
conv:
.LBB0_1:
\txorl %eax, %eax
.LBB0_2:
\tvfmadd231ps (%rax), %zmm1, %zmm2
\tvmovaps %zmm3, 64(%rsp)
\tjne\t.LBB0_2
\tjmp\t.LBB0_4
.LBB0_4:
\tjb\t.LBB0_1
"""
    (loop,) = innermost_loops(text)
    assert len(loop) == 3
    assert len(matching(loop, AVX512.fma)) == 1
    assert matching(loop, AVX512.stack) == ["\tvmovaps %zmm3, 64(%rsp)"]
    arm = "conv:\n.LBB0_3:\n\tfmla\tv1.4s, v2.4s, v3.s[0]\n\tldr\tq4, [sp, #32]\n\tb.ne\t.LBB0_3\n"
    (loop,) = innermost_loops(arm)
    assert len(matching(loop, NEON.fma)) == 1
    assert len(matching(loop, NEON.stack)) == 1
    (loop,) = innermost_loops("\n.LBB0_3:\n\tfmul\tv1.4s, v2.4s, v3.4s\n\tcbnz\tx3, .LBB0_3\n")
    assert not matching(loop, NEON.fma)
