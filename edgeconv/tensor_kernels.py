"""Which kernel an operator gets that is no convolution: one of its own, or the general rule's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx

from edgeconv.graph.channel_gathers import channel_order
from edgeconv.graph.ir import Node
from edgeconv.schedules import (
    channel_moves,
    fold,
    matmul,
    pixel_skips,
    pooling,
    relayout,
    softmax,
    tensor_expr,
)
from edgeconv.schedules.tensor_expr import TensorTask
from edgeconv.targets import Device

Build = Callable[[], tirx.PrimFunc]

# name, module, and why it is chosen
_KERNELS: tuple[tuple[str, Any, str], ...] = (
    ("relayout", relayout, "transposed in registers"),
    ("fold", fold, "windows added up in vectors"),
    ("pixel_skips", pixel_skips, "columns permuted in registers"),
    ("matmul", matmul, "rows and columns in registers"),
    ("softmax", softmax, "rows in vectors"),
    ("pooling", pooling, "columns shared by neighbouring outputs"),
)


def choose(node: Node, task: TensorTask, blocked: bool, device: Device) -> tuple[str, str, Build]:
    """Name of the schedule, why it was chosen, and what makes the kernel."""
    for name, kernel, reason in _KERNELS:
        if kernel.supports(task, device):
            return name, reason, partial(kernel.build, task, device)
    channels = _moved_channels(node) if channel_moves.supports(task, device) else None
    if channels is not None:
        build = partial(channel_moves.build, task, channels, device)
        return "channel_moves", "lanes permuted in registers", build
    reason = "scheduled by rule; " + ("channel blocks" if blocked else "row-major or views")
    return "tensor_expression", reason, partial(tensor_expr.build, task, device)


def _moved_channels(node: Node) -> list[tuple[int, int]] | None:
    """Operand and channel of every output channel, if nothing but channels is moved."""
    if node.op == "concat" and node.attrs["axis"] == 1:
        return [(i, c) for i, v in enumerate(node.inputs) for c in range(v.shape[1])]
    if node.op == "copy":
        return [(0, c) for c in range(node.output.shape[1])]
    if node.op not in ("slice", "channel_shuffle"):
        return None  # the kernel of a gather is shared by others of its shape
    order = channel_order(node)
    return None if order is None else [(0, int(c)) for c in order]
