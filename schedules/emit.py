"""A thin readable layer over TVM's IRBuilder for kernels written as loops and blocks.

Kernels whose parameters depend on the task (bias, residual) can't be TVMScript functions with a
fixed signature; with these helpers they keep TVMScript's look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules.common import CACHE_LINE
from edgeconv.workload import ConvTask, Place


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


def placed(name: str, shape: Sequence[int], layout: Layout, place: Place | None) -> Any:
    """A parameter: `interior`, or those of its pixels that `place` names."""
    if place is None:
        return interior(name, shape, layout)
    whole_shape = (*shape[:2], *place.size)
    strides = list(layout.strides(whole_shape))
    offset = layout.offset(whole_shape)
    for axis, (start, step) in enumerate(zip(place.start, place.step, strict=True), 2):
        offset += start * strides[axis]
        strides[axis] *= step
    extents = layout.interior_shape(shape)
    view = tirx.decl_buffer(
        extents, "float32", name=name, strides=strides, elem_offset=offset, data_alignment=64
    )
    return T.arg(name, view)


def planes(name: str, shape: Sequence[int]) -> Any:
    """A parameter: row-major maps as [N, C, pixel]; a caller's memory is aligned to one float."""
    n, c, h, w = shape
    return T.arg(name, tirx.decl_buffer((n, c, h * w), "float32", name=name, data_alignment=4))


@contextmanager
def loops(**extents: Any) -> Iterator[Any]:
    """Nested serial loops, named; yields their variables in order (one: the variable itself)."""
    with T.grid(*extents.values()) as variables:
        found = (
            list(variables) if isinstance(variables, (list, tuple, tvm.ir.Array)) else [variables]
        )
        for name, variable in zip(extents, found, strict=True):
            IRBuilder.name(name, variable)
        yield found if len(found) > 1 else found[0]


@contextmanager
def unrolled(**extents: int) -> Iterator[Any]:
    """Nested unrolled loops, named; yields their variables as `loops` does."""
    with ExitStack() as stack:
        found = []
        for name, extent in extents.items():
            found.append(IRBuilder.name(name, stack.enter_context(T.unroll(0, extent))))
        yield found if len(found) > 1 else found[0]


@contextmanager
def when(condition: Any | None) -> Iterator[None]:
    """Statements that run only if `condition`, an expression, holds; None: always."""
    if condition is None:
        yield
        return
    with T.If(condition), T.Then():
        yield


def spatial(name: str, extent: Any, value: Any) -> Any:
    """A data-parallel block axis."""
    return IRBuilder.name(name, T.axis.spatial(extent, value))


def reduce(name: str, extent: int, value: Any) -> Any:
    """A reduction block axis."""
    return IRBuilder.name(name, T.axis.reduce(extent, value))


def all_spatial(extents: Mapping[str, int], values: Sequence[Any]) -> list[Any]:
    """Data-parallel block axes for loops made by `loops(**extents)`."""
    pairs = zip(extents.items(), values, strict=True)
    return [spatial(f"v{name}", extent, value) for (name, extent), value in pairs]


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
        """Position in the image of the tap (kh, kw) of an output pixel; see `image`."""
        conv, halo = self.task.conv, self.task.data.halo
        if conv.slices is not None:
            kh = kh % conv.kernel_size[0]
        y = row * conv.stride[0] + kh * conv.dilation[0] + (halo[0] - conv.padding[0])
        x = column * conv.stride[1] + kw * conv.dilation[1] + (halo[1] - conv.padding[1])
        return y, x

    def image(self, n: Any, kh: Any) -> Any:
        """The image of the data that row kh of the weights multiplies for output n of the batch."""
        conv, s = self.task.conv, self.task.conv.slices
        if s is None:
            return n
        tap = kh // conv.kernel_size[0]
        return n // s.count * s.depth + n % s.count * s.stride + (s.first + tap * s.dilation)

    def finish(self, value: Any, at: Sequence[Any]) -> None:
        """Store activation(value + residual) at an index of the output."""
        s = self.task.conv.slices
        if s is not None:
            n = at[0]
            slot = n % s.count * s.out_stride + s.out_first
            at = (n // s.count * s.out_depth + slot, *at[1:])
        if self.residual is not None:
            value = value + self.residual[self._residual_index(at)]
        store(self.out, apply_activation(value, self.task.activation), list(at))

    def _residual_index(self, at: Sequence[Any]) -> tuple[Any, ...]:
        assert self.task.residual is not None
        block, other = self.task.out.block, self.task.residual.block
        if block == other:
            return tuple(at)
        n, chunk, y, x, slot = at
        channel = chunk * block + slot
        return (n, channel // other, y, x, channel % other)


def conv_operands(
    task: ConvTask, weight_shape: Sequence[int], bias_shape: Sequence[int]
) -> ConvOperands:
    """Declare the parameters `(data, weight, [bias], [residual], out)` of a kernel."""
    conv = task.conv
    in_shape = (conv.in_images, conv.in_channels, conv.height, conv.width)
    out_shape = (conv.out_images, *conv.output_shape[1:])
    residual_layout = task.residual
    return ConvOperands(
        task,
        whole("data", in_shape, task.data),
        buffer("weight", weight_shape),
        buffer("bias", bias_shape) if task.bias else None,
        None
        if residual_layout is None
        else placed("residual", out_shape, residual_layout, task.place),
        placed("out", out_shape, task.out, task.place),
    )


def local(name: str, shape: Sequence[int]) -> Any:
    """A block-local array on the stack that becomes registers once its loops are unrolled."""
    return IRBuilder.name(name, T.sblock_alloc_buffer(tuple(shape), "float32", scope="local"))


STACK_BYTES = 1024  # TVM puts smaller arrays of `scratch` on the stack


def scratch(name: str, shape: Sequence[int]) -> Any:
    """A block-local array in memory; each thread has its own."""
    return IRBuilder.name(name, T.sblock_alloc_buffer(tuple(shape), "float32", scope="global"))


def unknown_regions() -> None:
    """Declare, first in a block, that nobody need know which elements it reads and writes.

    For blocks whose loops and indices depend on bound variables, which TVM can't see through.
    """
    T.reads()
    T.writes()


def run(start: Any, lanes: int) -> Any:
    """`lanes` neighbouring indices from `start` on; TVM has no vectors of one lane."""
    return start if lanes == 1 else tirx.Ramp(start, 1, lanes)


def spread(value: Any, lanes: int) -> Any:
    """A vector of `lanes` copies of a value."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def prefetch(element: Any, offset: Any, *, level: int = 2) -> None:
    """Ask for the cache line `offset` bytes behind an element of a buffer, into the L1 or L2 cache.

    The address may lie outside the buffer: a prefetch never faults.
    """
    start = tirx.address_of(element)
    address = tirx.call_intrin("handle", "tirx.handle_add_byte_offset", start, offset)
    flags = [tirx.const(flag, "int32") for flag in (0, 4 - level, 1)]  # to read, keep, data
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *flags))


def prefetch_line(start: Any, line: Any, offset: Any = 0) -> None:
    """Ask for cache line number `line` of a run of float32 from an element on, or `offset` bytes
    behind, by its last: a run may start anywhere in a line, whose first part came with another run.
    """
    prefetch(start, offset + line * CACHE_LINE + CACHE_LINE - 4)


@contextmanager
def only_prefetching() -> Iterator[None]:
    """A block of its own that prefetches: TVM takes addresses for reads, and stores to arrays that
    a block reads can't run in parallel.
    """
    with T.sblock("ahead"):
        T.reads()
        T.writes()
        yield


block = T.sblock
init = T.init
store = T.buffer_store
