"""A thin readable layer over TVM's IRBuilder for kernels written as loops and blocks.

Kernels whose parameters depend on the task (bias, residual) can't be TVMScript functions with a
fixed signature; with these helpers they keep TVMScript's look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.operators.convolution import apply_activation
from edgeconv.workload import ConvTask


def prim_func(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """The PrimFunc whose parameters and statements `body` emits."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            body()
    return builder.get()


def buffer(name: str, shape: Sequence[int], dtype: str = "float32") -> Any:
    """A parameter: a compact array."""
    return T.arg(name, tirx.decl_buffer(tuple(shape), dtype, name=name))


def whole(name: str, shape: Sequence[int], layout: Layout, dtype: str = "float32") -> Any:
    """A parameter: an activation with its halo, as [N, chunk, H, W, lane] (see Layout)."""
    return buffer(name, layout.buffer_shape(shape), dtype)


def interior(name: str, shape: Sequence[int], layout: Layout, dtype: str = "float32") -> Any:
    """A parameter: an activation without its halo; strides step over it."""
    return T.arg(name, interior_buffer(name, shape, layout, dtype))


def interior_buffer(
    name: str, shape: Sequence[int], layout: Layout, dtype: str, *, aligned: bool = True
) -> Any:
    """The buffer of `interior`, not yet a parameter; `aligned` promises 64-byte alignment."""
    alignment = 64 if aligned else tvm.runtime.DataType(dtype).itemsize
    if not any(layout.halo):
        extents = layout.interior_shape(shape)
        return tirx.decl_buffer(extents, dtype, name=name, data_alignment=alignment)
    return tirx.decl_buffer(
        layout.interior_shape(shape),
        dtype,
        name=name,
        strides=list(layout.strides(shape)),
        elem_offset=layout.offset(shape),
        data_alignment=alignment,
    )


@contextmanager
def loops(**extents: int) -> Iterator[Any]:
    """Nested serial loops, named; yields their variables in order (one: the variable itself)."""
    with T.grid(*extents.values()) as variables:
        found = (
            list(variables) if isinstance(variables, (list, tuple, tvm.ir.Array)) else [variables]
        )
        for name, variable in zip(extents, found, strict=True):
            IRBuilder.name(name, variable)
        yield found if len(found) > 1 else found[0]


def spatial(name: str, extent: int, value: Any) -> Any:
    """A data-parallel block axis."""
    return IRBuilder.name(name, T.axis.spatial(extent, value))


def reduce(name: str, extent: int, value: Any) -> Any:
    """A reduction block axis."""
    return IRBuilder.name(name, T.axis.reduce(extent, value))


def all_spatial(extents: Mapping[str, int], values: Sequence[Any]) -> list[Any]:
    """Data-parallel block axes for loops made by `loops(**extents)`."""
    pairs = zip(extents.items(), values, strict=True)
    return [spatial(f"v{name}", extent, value) for (name, extent), value in pairs]


def all_reduce(extents: Mapping[str, int], values: Sequence[Any]) -> list[Any]:
    """Reduction block axes for loops made by `loops(**extents)`."""
    pairs = zip(extents.items(), values, strict=True)
    return [reduce(f"v{name}", extent, value) for (name, extent), value in pairs]


@dataclass(frozen=True)
class ConvOperands:
    """The parameters of a convolution kernel, and the few things every family does with them."""

    task: ConvTask
    data: Any
    weight: Any
    bias: Any | None
    residual: Any | None
    out: Any

    def start(self, *index: Any) -> Any:
        """First value of an accumulator: the bias at `index`, or zero."""
        return tirx.const(0.0, "float32") if self.bias is None else self.bias[index]

    def pixel(self, row: Any, column: Any, kh: Any, kw: Any) -> tuple[Any, Any]:
        """Position in the data buffer of the tap (kh, kw) of an output pixel."""
        conv, halo = self.task.conv, self.task.data.halo
        y = row * conv.stride[0] + kh * conv.dilation[0] + (halo[0] - conv.padding[0])
        x = column * conv.stride[1] + kw * conv.dilation[1] + (halo[1] - conv.padding[1])
        return y, x

    def finish(self, value: Any, at: Sequence[Any]) -> None:
        """Store activation(value + residual) at an index of the output."""
        if self.residual is not None:
            value = value + self.residual[self._residual_index(at)]
        store(self.out, apply_activation(value, self.task.activation), list(at))

    def _residual_index(self, at: Sequence[Any]) -> tuple[Any, ...]:
        assert self.task.residual is not None
        block, other = self.task.out.block, self.task.residual.block
        n, chunk, y, x, slot = at
        if block == other:
            return (n, chunk, y, x, slot)
        channel = chunk * block + slot
        return (n, channel // other, y, x, channel % other)


def conv_operands(
    task: ConvTask, weight_shape: Sequence[int], bias_shape: Sequence[int]
) -> ConvOperands:
    """Declare the parameters `(data, weight, [bias], [residual], out)` of a kernel."""
    conv = task.conv
    in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
    residual_layout = task.residual
    return ConvOperands(
        task,
        whole("data", in_shape, task.data),
        buffer("weight", weight_shape),
        buffer("bias", bias_shape) if task.bias else None,
        None
        if residual_layout is None
        else interior("residual", conv.output_shape, residual_layout),
        interior("out", conv.output_shape, task.out),
    )


def local(name: str, shape: Sequence[int]) -> Any:
    """A block-local array that becomes registers once its loops are unrolled."""
    return IRBuilder.name(name, T.sblock_alloc_buffer(tuple(shape), "float32", scope="local"))


def scratch(name: str, shape: Sequence[int]) -> Any:
    """A block-local array in memory; each thread has its own."""
    return IRBuilder.name(name, T.sblock_alloc_buffer(tuple(shape), "float32", scope="global"))


def register(name: str, lanes: int) -> Any:
    """A vector on the stack, which LLVM keeps in a register.

    TVM puts arrays of less than 1 KiB and of no scope there. Those of `local` come from its pool of
    workspaces: once a loop is parallel, LLVM can't tell them from memory that a prefetch touches.
    """
    return scratch(name, (lanes,))


def prefetch(element: Any, ahead: int) -> None:
    """Ask for the cache line `ahead` bytes behind an element; it may lie behind the array's end."""
    line = [tirx.address_of(element), ahead]
    address = tirx.call_intrin("handle", "tirx.handle_add_byte_offset", *line)
    read, keep, data = (tirx.const(flag, "int32") for flag in (0, 3, 1))
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, keep, data))


block = T.sblock
init = T.init
store = T.buffer_store
