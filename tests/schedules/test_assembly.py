"""The machine code of hot loops: as many multiply-adds as the tile has, and no register spilled."""

from __future__ import annotations

import functools
import re

import pytest

from edgeconv import strategy
from edgeconv.layout import Layout
from edgeconv.strategy import Choice
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules import assembly
from tests.schedules.assembly import AVX2, AVX512, NEON, innermost_loops, matching
from tests.schedules.kernels import device

TARGETS = {"x86-avx512": AVX512, "x86-avx2": AVX2, "raspberry-pi-4": NEON, "raspberry-pi-5": NEON}


@functools.cache
def compiled(
    target: str, conv: Conv2d, *, exact: bool = True, cores: int = 1
) -> tuple[Choice, str]:
    """The strategy's choice for a convolution in channel blocks, and its assembly."""
    cpu = device(target, cores)
    task = ConvTask(
        conv, Layout(cpu.lanes, conv.padding), Layout(cpu.lanes), True, None, ("relu", ())
    )
    choice = strategy.choose(task, cpu, exact=exact)
    return choice, assembly.compiled(choice.family, task, choice.knobs, cpu)


def hot_loop(target: str, conv: Conv2d, cores: int = 1) -> tuple[Choice, list[str]]:
    """The choice and its hottest loop."""
    choice, text = compiled(target, conv, cores=cores)
    return choice, assembly.hottest(text, TARGETS[target])


def check(target: str, conv: Conv2d, fmas_a_tile: int, cores: int = 1) -> None:
    check_loop(target, *hot_loop(target, conv, cores), fmas_a_tile)


def check_loop(target: str, choice: Choice, lines: list[str], fmas_a_tile: int) -> None:
    isa = TARGETS[target]
    fmas = len(matching(lines, isa.fma))
    assert fmas >= fmas_a_tile, (choice.knobs_text, fmas)
    assert fmas % fmas_a_tile == 0, (choice.knobs_text, fmas)  # LLVM may unroll the loop further
    spills = [x for x in matching(lines, isa.stack) if re.search(isa.vector, x)]
    assert not spills, (choice.knobs_text, len(spills), spills[:4])
    assert not matching(lines, isa.call)
    assert not matching(lines, isa.store), matching(lines, isa.store)[:4]
    assert fmas > len(lines) / 3, (choice.knobs_text, fmas, len(lines))


def tile(target: str, conv: Conv2d, cores: int) -> int:
    """Multiply-adds of one pass through the innermost loop, by the knobs."""
    choice, _ = hot_loop(target, conv, cores)
    knobs = choice.knobs
    assert choice.family.name == "grouped_spatial_pack"
    taps = conv.kernel_size[1] if knobs.unroll_kw else 1
    return knobs.rows * knobs.columns * knobs.vectors * taps * knobs.quad


CONVOLUTIONS = {
    "dense 3x3": Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1)),
    "strided 3x3": Conv2d(1, 64, 28, 28, 128, (3, 3), (2, 2), (1, 1, 1, 1)),
    "pointwise": Conv2d(1, 128, 14, 14, 128, (1, 1)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("cores", [1, 2])
def test_hot_loop(target: str, name: str, cores: int) -> None:
    conv = CONVOLUTIONS[name]
    check(target, conv, tile(target, conv, cores), cores)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("cores", [1, 2])
def test_products_of_winograd(target: str, groups: int, cores: int) -> None:
    """The loops of the matrix products: those with multiply-adds and no other arithmetic."""
    conv = Conv2d(1, 128, 28, 28, 128, (3, 3), padding=(1, 1, 1, 1), groups=groups)
    choice, text = compiled(target, conv, exact=False, cores=cores)
    assert choice.family.name == "winograd"
    isa = TARGETS[target]
    other = r"\tv?f?(add|sub|mul)(ps)?\b.*(mm|v\d)"
    loops = [x for x in innermost_loops(text) if matching(x, isa.fma)]
    products = [x for x in loops if not matching(x, other)]
    assert products
    knobs = choice.knobs
    # what the last register tile computes again, LLVM leaves out of the one before, if unrolled
    again = -knobs.tiles % knobs.rows
    whole, less = (rows * knobs.vectors for rows in (knobs.rows, knobs.rows - again))
    shorter = [x for x in products if len(matching(x, isa.fma)) % whole]
    assert len(shorter) * -(-knobs.tiles // knobs.rows) <= len(products)
    for lines in products:
        check_loop(target, choice, lines, less if lines in shorter else whole)


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
