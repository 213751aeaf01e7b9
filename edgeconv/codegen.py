"""From scheduled kernels to one native module: raw-pointer kernels and a `main` that calls them in
order.

`main(inputs…, outputs…, constants, workspace, first, last)` runs steps first … last−1. The network
is one packed call: no virtual machine, no allocation, and a profiler can run any single step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv.errors import BuildError
from edgeconv.graph.ir import Value


@dataclass(frozen=True)
class Operand:
    """Where a kernel finds a tensor: in an argument of `main`, at a byte offset."""

    space: str  # "input", "output", "constants" or "workspace"
    index: int  # number of the input or output; 0 otherwise
    offset: int  # bytes


@dataclass(frozen=True)
class Step:
    """One kernel call of the network."""

    kernel: str
    operands: tuple[Operand, ...]
    name: str  # the layer, for profiles


def with_pointer_parameters(func: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """The same kernel taking raw pointers: a call is then a few moves, without shape checks."""
    root = func.body.block
    params = [
        tirx.Var(f"{b.name}_ptr", tvm.ir.PointerType(tvm.ir.PrimType(str(b.dtype)), "global"))
        for b in func.params
    ]
    declarations = [tirx.DeclBuffer(b, data=p) for b, p in zip(func.params, params, strict=True)]
    body = tirx.SeqStmt([*declarations, root.body])
    block = SBlock([], [], [], root.name_hint, body, None, root.alloc_buffers, [], root.annotations)
    realize = SBlockRealize([], tirx.IntImm("bool", 1), block)
    return (
        tirx.PrimFunc(params, realize)
        .with_attr("global_symbol", name)
        .with_attr("tirx.noalias", True)
        .with_attr("s_tir", True)
    )


def main_function(
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constant_bytes: int,
    workspace_bytes: int,
    steps: Sequence[Step],
) -> tirx.PrimFunc:
    """The entry point that runs the steps in order; empty inputs and outputs have one element."""

    def parameter(name: str, shape: Sequence[int], dtype: str) -> Any:
        extents = (1,) if 0 in shape else tuple(shape)
        return T.arg(name, tirx.decl_buffer(extents, dtype, name=name))

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            bases: dict[tuple[str, int], Any] = {}
            for i, v in enumerate(inputs):
                bases["input", i] = parameter(f"input{i}", v.shape, v.dtype)
            for i, v in enumerate(outputs):
                bases["output", i] = parameter(f"output{i}", v.shape, v.dtype)
            bases["constants", 0] = parameter("constants", [max(constant_bytes, 1)], "uint8")
            bases["workspace", 0] = parameter("workspace", [max(workspace_bytes, 1)], "uint8")
            first = T.arg("first", tirx.Var("first", "int32"))
            last = T.arg("last", tirx.Var("last", "int32"))
            for number, step in enumerate(steps):
                with T.If(tirx.all(first <= number, last > number)), T.Then():
                    T.evaluate(
                        tirx.call_cpacked(step.kernel, *(_address(bases, o) for o in step.operands))
                    )
    return builder.get()


def _address(bases: dict[tuple[str, int], Any], operand: Operand) -> Any:
    base = bases[operand.space, operand.index]
    if operand.space in ("input", "output"):
        start = base.data if not len(base.shape) else tirx.address_of(base[(0,) * len(base.shape)])
        if not operand.offset:
            return start
        return tirx.call_intrin("handle", "tirx.handle_add_byte_offset", start, operand.offset)
    return tirx.address_of(base[operand.offset])


@tirx.transform.prim_func_pass(opt_level=0)
def _scratch_on_cpu(func: tirx.PrimFunc, _mod: Any, _context: Any) -> tirx.PrimFunc:
    """Tell TVM where scratch memory lives: it reads that off tensors, and we pass pointers."""
    body = func.body
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt(tirx.IntImm("int32", 0), key, tirx.IntImm("int32", value), body)
    return func.with_body(body)


@tirx.transform.prim_func_pass(opt_level=0)
def _registers_on_stack(func: tirx.PrimFunc, _mod: Any, _context: Any) -> tirx.PrimFunc:
    """Put arrays of scope `local` on the stack, whatever their size.

    TVM takes all but the smallest from a pool. In a parallel kernel LLVM then can't tell them from
    memory that a prefetch touches, and stores accumulators in every step.
    """
    return func.with_body(_with_local_on_stack(func.body))


def _with_local_on_stack(stmt: Any) -> Any:
    keep = {"disable_lower_builtin": tirx.IntImm("bool", 1)}
    again = _with_local_on_stack
    if isinstance(stmt, tirx.AllocBuffer):
        if stmt.buffer.scope() != "local":
            return stmt
        return tirx.AllocBuffer(stmt.buffer, {**dict(stmt.annotations), **keep}, stmt.span)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([again(part) for part in stmt.seq], stmt.span)
    if isinstance(stmt, tirx.AttrStmt):
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, again(stmt.body), stmt.span)
    if isinstance(stmt, tirx.For):
        head = (stmt.loop_var, stmt.min, stmt.extent, stmt.kind)
        tail = (stmt.thread_binding, stmt.annotations, stmt.step, stmt.span)
        return tirx.For(*head, again(stmt.body), *tail)
    if isinstance(stmt, tirx.IfThenElse):
        otherwise = None if stmt.else_case is None else again(stmt.else_case)
        return tirx.IfThenElse(stmt.condition, again(stmt.then_case), otherwise, stmt.span)
    return stmt


def _pipeline() -> tuple[Any, Any, Any]:
    lower, finalize_host, finalize_device = tirx.get_tir_pipeline("s_tir")
    passes = tvm.ir.transform.Sequential([_registers_on_stack, _scratch_on_cpu, finalize_host()])
    return lower, lambda: passes, finalize_device


tirx.register_tir_pipeline("edgeconv", _pipeline)


def build(
    functions: dict[str, tirx.PrimFunc], target: tvm.target.Target, pipeline: str = "edgeconv"
) -> Any:
    """Machine code for all functions, lowered by one of TVM's registered pipelines.

    Raises:
        BuildError: TVM or LLVM refused a kernel.
    """
    module = tvm.IRModule(
        {tvm.ir.GlobalVar(n): f.with_attr("global_symbol", n) for n, f in functions.items()}
    )
    try:
        return tvm.tirx.build(module, target=target, pipeline=pipeline)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        raise BuildError(f"code generation for {target} failed: {reason}") from error
