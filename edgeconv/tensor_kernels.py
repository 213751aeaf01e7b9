"""Which kernel an operator gets that is no convolution: one of its own, or the general rule's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from edgeconv.strategy import RecordSource, words
from edgeconv.targets import Device
from edgeconv.workload import PoolTask

Build = Callable[[], tirx.PrimFunc]

# name, module, and why it is chosen
_KERNELS: tuple[tuple[str, Any, str], ...] = (
    ("relayout", relayout, "transposed in registers"),
    ("fold", fold, "windows added up in vectors"),
    ("pixel_skips", pixel_skips, "columns permuted in registers"),
    ("matmul", matmul, "rows and columns in registers"),
    ("softmax", softmax, "rows in vectors"),
)


@dataclass(frozen=True)
class Choice:
    """The kernel of an operator.

    Attributes:
        schedule: its name.
        reason: why it was chosen.
        build: makes it.
        knobs: its settings as "name=value" words, if it has any.
        pool: what tuning knows it as, if it has.
    """

    schedule: str
    reason: str
    build: Build
    knobs: str = ""
    pool: PoolTask | None = None


def choose(
    node: Node,
    task: TensorTask,
    blocked: bool,
    device: Device,
    *,
    exact: bool = False,
    records: RecordSource | None = None,
) -> Choice:
    """The kernel of a node that is no convolution; a pool's knobs as a record says."""
    for name, kernel, reason in _KERNELS:
        if kernel.supports(task, device):
            return Choice(name, reason, partial(kernel.build, task, device))
    pool = pooling.pool_of(task)
    if pool is not None and pooling.supports(pool, device) is None:
        return _pool(pool, device, exact, records)
    channels = _moved_channels(node) if channel_moves.supports(task, device) else None
    if channels is not None:
        build = partial(channel_moves.build, task, channels, device)
        return Choice("channel_moves", "lanes permuted in registers", build)
    reason = "scheduled by rule; " + ("channel blocks" if blocked else "row-major or views")
    return Choice("tensor_expression", reason, partial(tensor_expr.build, task, device))


def _pool(pool: PoolTask, device: Device, exact: bool, records: RecordSource | None) -> Choice:
    tuned = None if records is None else records.find_pool(pool, device, exact)
    if tuned is None:
        knobs = pooling.default_knobs(pool, device)
        reason = "default knobs; columns shared by neighbouring outputs"
    else:
        knobs, reason = tuned.knobs, tuned.reason
    build = partial(pooling.build, pool, device, knobs)
    return Choice("pooling", reason, build, words(knobs), pool)


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
