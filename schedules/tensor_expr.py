"""Every operator that is not a convolution: its tensor expression on physical layouts, scheduled by
rule.

Blocked activations ([N, C/b, H, W, b], see Layout) are handled in one of two ways:
- channelwise operators (elementwise, pooling, spatial reductions, aligned concat) run on the five
  axes as they lie in memory, the lane axis innermost and vectorised;
- all others see an NCHW view of their operands, which is inlined, and write their result into
  whatever layout the graph wants.
No operator needs a separate layout transform before or behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm_ffi
from tvm import te, tirx
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.operators.fused import pattern_of
from edgeconv.operators.pooling import POOLS
from edgeconv.operators.registry import Pattern, get
from edgeconv.schedules import emit, rules
from edgeconv.targets import Device


@dataclass(frozen=True)
class Tensor:
    """Shape, type and layout of an operand; `aligned` is False for buffers a caller provides."""

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    aligned: bool = True

    def joined(self, kept: int) -> Tensor:
        """A row-major tensor, all axes before the last `kept` as one."""
        axes = len(self.shape) - kept
        return replace(self, shape=(math.prod(self.shape[:axes]), *self.shape[axes:]))


@dataclass(frozen=True)
class TensorTask:
    """An operator with the layouts of all its operands: the key of its kernel."""

    op: str
    attrs: tuple[tuple[str, Any], ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def is_float32(self) -> bool:
        """Whether all operands and results are."""
        return all(t.dtype == "float32" for t in (*self.inputs, *self.outputs))

    @property
    def is_plain(self) -> bool:
        """Whether all operands and results are row-major."""
        return all(t.layout.is_plain for t in (*self.inputs, *self.outputs))


def parameter(name: str, tensor: Tensor) -> Any:
    """A parameter of a kernel that is written with `emit`: a tensor without its halo."""
    return T.arg(name, _buffer(name, tensor))


def _buffer(name: str, tensor: Tensor) -> Any:
    t = tensor
    return emit.interior_buffer(name, t.shape, t.layout, t.dtype, aligned=t.aligned)


ROWS_OR_COLUMNS = ("interpolate", "gather")  # by a table, along one axis


def runs_blocked(op: str, attrs: dict[str, Any], inputs: Sequence[Tensor], out: Tensor) -> bool:
    """Whether the operator can run on the five physical axes of blocked operands."""
    if op.startswith("reduce_"):
        spatial = tuple(attrs.get("axes", ())) == (2, 3) and bool(attrs.get("keepdims"))
        return spatial and inputs[0].layout.block > 1 and inputs[0].shape[1] > 1
    block = out.layout.block
    if block < 2 or len(out.shape) != 4:
        return False
    if pattern_of(op, attrs) is Pattern.ELEMENTWISE:
        return all(_broadcasts_blocked(t, out, block) for t in inputs)
    if op in ROWS_OR_COLUMNS:  # tables follow the data
        return attrs["axis"] in (2, 3) and inputs[0].layout.block == block
    if any(t.layout.block != block for t in inputs):
        return False
    if op in POOLS:
        return True
    if op == "concat":
        return attrs["axis"] == 1 and all(t.shape[1] % block == 0 for t in inputs[:-1])
    return False


def _broadcasts_blocked(operand: Tensor, out: Tensor, block: int) -> bool:
    if operand.layout.block > 1:
        return operand.layout.block == block
    return len(operand.shape) <= 4


def _physical(tensor: Tensor) -> tuple[int, ...]:
    return tensor.layout.interior_shape(tensor.shape)


def _blocked_view(x: te.Tensor, shape: Sequence[int], block: int) -> te.Tensor:
    """A row-major operand, broadcast to rank 4, as [n, C/block, h, w, block]; 1 stays 1."""
    dims = [1] * (4 - len(shape)) + list(shape)
    drop = 4 - len(shape)
    n, c, h, w = dims
    blocked = c > 1
    view = (n, -(-c // block), h, w, block) if blocked else (n, 1, h, w, 1)

    def at(i: Any, cb: Any, y: Any, z: Any, lane: Any) -> Any:
        channel = cb * block + lane if blocked else cb
        if blocked and c % block:
            channel = tirx.min(channel, c - 1)
        return x(*[i, channel, y, z][drop:])

    return te.compute(view, at, name="blocked_view")


def _broadcast(y: te.Tensor, shape: tuple[int, ...]) -> te.Tensor:
    """y in `shape`; single channels, read row-major, have no lanes of their own."""
    found = tuple(int(d) for d in y.shape)
    if found == shape:
        return y

    def at(*index: Any) -> Any:
        return y(*(0 if d == 1 else i for i, d in zip(index, found, strict=True)))

    return te.compute(shape, at, name="broadcast")


def _nchw_view(x: te.Tensor, tensor: Tensor) -> te.Tensor:
    block = tensor.layout.block
    if block == 0:
        return x
    return te.compute(
        tensor.shape,
        lambda n, c, h, w: x[n, tirx.floordiv(c, block), h, w, tirx.floormod(c, block)],
        name="nchw_view",
    )


def _into_layout(y: te.Tensor, tensor: Tensor) -> te.Tensor:
    block, channels = tensor.layout.block, tensor.shape[1] if len(tensor.shape) == 4 else 0
    if block == 0:
        return y

    def at(n: Any, cb: Any, h: Any, w: Any, lane: Any) -> Any:
        channel = cb * block + lane
        if channels % block:
            channel = tirx.min(channel, channels - 1)  # padding lanes: any finite value will do
        return y[n, channel, h, w]

    return te.compute(_physical(tensor), at, name="into_layout")


def compute(task: TensorTask) -> tirx.PrimFunc:
    """The unscheduled kernel `(inputs…, outputs…)` on physical buffers."""
    attrs = dict(task.attrs)
    operands = [
        te.placeholder(_physical(t), t.dtype, name=f"x{i}") for i, t in enumerate(task.inputs)
    ]
    op = get(task.op)
    if runs_blocked(task.op, attrs, task.inputs, task.outputs[0]):
        out = task.outputs[0]
        block = out.layout.block
        elementwise = pattern_of(task.op, attrs) is Pattern.ELEMENTWISE
        views = [
            _blocked_view(x, t.shape, block) if elementwise and t.layout.block == 0 else x
            for x, t in zip(operands, task.inputs, strict=True)
        ]
        if task.op in POOLS:
            attrs = _with_lane_axis(attrs)
        results = op(*views, **attrs)
        if elementwise:
            results = [_broadcast(y, _physical(out)) for y in results]
        if block != task.inputs[0].layout.block and task.op.startswith("reduce_"):
            source = Tensor(out.shape, out.dtype, Layout(task.inputs[0].layout.block))
            results = [_into_layout(_nchw_view(results[0], source), out)]
    else:
        views = [_nchw_view(x, t) for x, t in zip(operands, task.inputs, strict=True)]
        results = [
            _into_layout(y, t) for y, t in zip(op(*views, **attrs), task.outputs, strict=True)
        ]

    def is_operand(y: te.Tensor) -> bool:
        return any(y.same_as(x) for x in operands)

    results = [
        te.compute(y.shape, lambda *i, y=y: y(*i), name="copy") if is_operand(y) else y
        for y in results
    ]
    func = te.create_prim_func([*operands, *results])
    return _place_buffers(func, [*task.inputs, *task.outputs])


def _with_lane_axis(attrs: dict[str, Any]) -> dict[str, Any]:
    """Window attributes with a third, trivial spatial axis: the lanes."""
    top, left, bottom, right = attrs["padding"]
    widened = {name: (*attrs[name], 1) for name in ("kernel", "stride", "dilation")}
    return {**attrs, **widened, "padding": (top, left, 0, bottom, right, 0)}


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(inputs…, outputs…)`."""
    return rules.schedule(compute(task), device)


def _place_buffers(func: tirx.PrimFunc, tensors: Sequence[Tensor]) -> tirx.PrimFunc:
    """Give parameters with a halo their strides and offset; forget alignment that is not there."""
    swaps = [
        (param, _buffer(param.name, t))
        for param, t in zip(func.params, tensors, strict=True)
        if any(t.layout.halo) or not t.aligned
    ]
    if not swaps:
        return func

    def swap(var: tirx.Var) -> tirx.Var:
        return next((new for old, new in swaps if var.same_as(old)), var)

    return tvm_ffi.structural_map(func, (tirx.Var, swap))
