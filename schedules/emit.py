"""A thin readable layer over TVM's IRBuilder for kernels written as loops and blocks.

Kernels whose parameters depend on the task (bias, residual) can't be TVMScript functions with a fixed
signature; with these helpers they keep TVMScript's look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout


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


def local(name: str, shape: Sequence[int]) -> Any:
    """A block-local array that becomes registers once its loops are unrolled."""
    return IRBuilder.name(name, T.sblock_alloc_buffer(tuple(shape), "float32", scope="local"))


block = T.sblock
init = T.init
store = T.buffer_store
