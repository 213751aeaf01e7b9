"""Kernels that check every index of a buffer, scratch memory included, before they use it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import tvm
from tvm import tirx

from edgeconv import codegen
from edgeconv.memory import SLACK
from tests.schedules.kernels import Kernels

CHILDREN = (
    *("a", "b", "value", "body", "base", "vectors", "args", "indices"),
    *("condition", "true_value", "false_value"),  # a Select computes both
)

OTHERS = (tirx.AllocBuffer, tirx.DeclBuffer, tirx.AssertStmt, tirx.stmt.Return)


class CheckedKernels(Kernels):
    """`Kernels` that stop at the first index outside its buffer."""

    pipeline = "edgeconv_bounds"

    def main(self) -> Any:
        """As `Kernels.main`, compiled with checks."""
        build = functools.partial(codegen.build, pipeline=self.pipeline)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codegen, "build", build)
            return super().main()


Access = tuple[Any, list[Any]]  # a load or store, and what must hold for it to happen


class Checks:
    """Writes assertions into the statements of a kernel."""

    def __init__(self) -> None:
        self.own: list[Any] = []  # buffers the kernel allocates

    def of(self, stmt: Any) -> Any:
        """A statement with assertions."""
        if isinstance(stmt, tirx.SeqStmt):
            parts: list[Any] = []
            for part in stmt.seq:
                done = self.of(part)
                parts += list(done.seq) if isinstance(done, tirx.SeqStmt) else [done]
            return tirx.SeqStmt(parts, stmt.span)
        if isinstance(stmt, tirx.AttrStmt):
            head = (stmt.node, stmt.attr_key, stmt.value)
            return tirx.AttrStmt(*head, self.of(stmt.body), stmt.span)
        if isinstance(stmt, tirx.For):
            head = (stmt.loop_var, stmt.min, stmt.extent, stmt.kind)
            tail = (stmt.thread_binding, stmt.annotations, stmt.step, stmt.span)
            return tirx.For(*head, self.of(stmt.body), *tail)
        if isinstance(stmt, tirx.IfThenElse):
            otherwise = None if stmt.else_case is None else self.of(stmt.else_case)
            body = tirx.IfThenElse(stmt.condition, self.of(stmt.then_case), otherwise, stmt.span)
            return self._after(_loads(stmt.condition, []), body)
        if isinstance(stmt, tirx.BufferStore):
            loads = [x for e in (stmt.value, *stmt.indices) for x in _loads(e, [])]
            return self._after([*loads, (stmt, [])], stmt)
        if isinstance(stmt, (tirx.Bind, tirx.Evaluate)):
            return self._after(_loads(stmt.value, []), stmt)
        if isinstance(stmt, tirx.AllocBuffer):
            self.own.append(stmt.buffer)
        assert isinstance(stmt, OTHERS), type(stmt)
        return stmt

    def _after(self, accesses: Iterable[Access], stmt: Any) -> Any:
        """The statement behind an assertion for each access."""
        asserted = [self._assertion(*access) for access in accesses]
        once = {str(a): a for a in asserted if a is not None}
        return tirx.SeqStmt([*once.values(), stmt]) if once else stmt

    def _assertion(self, access: Any, conditions: list[Any]) -> Any | None:
        """None where single lanes of a vector are gathered, or read or not."""
        loads = isinstance(access, tvm.ir.TensorLoad)
        buffer = access.source if loads else access.buffer
        (index,) = access.indices
        first = last = index
        if isinstance(index, tirx.Ramp):
            first, last = index.base, index.base + index.stride * (int(index.lanes) - 1)
        if not all(e.ty.is_scalar() for e in (first, *conditions)):
            return None
        size = math.prod(int(extent) for extent in buffer.shape)
        if loads and not any(buffer.same_as(own) for own in self.own):
            size += SLACK // 4  # a vector may reach behind the last pixel of an operand
        inside = tirx.all(first >= 0, last < size)
        for condition in conditions:
            inside = tirx.any(tirx.Not(condition), inside)
        message = [tvm.ir.StringImm(f"{buffer.name}[{index}] of {buffer.shape}")]
        return tirx.AssertStmt(inside, tvm.ir.StringImm("IndexError"), message)


def _loads(expression: Any, conditions: list[Any]) -> Iterator[Access]:
    """All loads of an expression."""
    if isinstance(expression, tvm.ir.TensorLoad):
        yield expression, conditions
    if isinstance(expression, tvm.ir.Call):
        name = expression.op.name if isinstance(expression.op, tvm.ir.Op) else ""
        if name == "tirx.address_of":
            return
        if name == "prim.if_then_else":
            condition, yes, no = expression.args
            yield from _loads(condition, conditions)
            yield from _loads(yes, [*conditions, condition])
            yield from _loads(no, [*conditions, tirx.Not(condition)])
            return
    for name in CHILDREN:
        found = getattr(expression, name, None)
        if isinstance(found, (list, tuple, tvm.ir.Array)):
            for child in found:
                yield from _loads(child, conditions)
        elif isinstance(found, tvm.ir.Expr):
            yield from _loads(found, conditions)


def register(name: str, checks: type[Checks]) -> None:
    """A pipeline as edgeconv's, in which those checks write into all kernels before LLVM."""

    @tirx.transform.prim_func_pass(opt_level=0)
    def check_indices(func: tirx.PrimFunc, _mod: Any, _context: Any) -> tirx.PrimFunc:
        if str(func.attrs["global_symbol"]) == "main":
            return func
        return func.with_body(checks().of(func.body))

    def pipeline() -> tuple[Any, Any, Any]:
        lower, finalize_host, finalize_device = tirx.get_tir_pipeline("edgeconv")
        return tvm.ir.transform.Sequential([lower, check_indices]), finalize_host, finalize_device

    tirx.register_tir_pipeline(name, pipeline)


register(CheckedKernels.pipeline, Checks)
