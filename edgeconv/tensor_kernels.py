"""Which kernel an operator gets that is no convolution: one of its own, or the general rule's."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from edgeconv.graph.channel_gathers import channel_order
from edgeconv.graph.ir import Node
from edgeconv.layout import Layout
from edgeconv.schedules import channel_moves, fold, pixel_skips, pooling, relayout, tensor_expr
from edgeconv.schedules.tensor_expr import Tensor, TensorTask
from edgeconv.targets import Device

Build = Callable[[], tirx.PrimFunc]


def choose(node: Node, task: TensorTask, blocked: bool, device: Device) -> tuple[str, str, Build]:
    """Name of the schedule, why it was chosen, and what makes the kernel."""
    if _is_relayout(task, device):
        return "relayout", "transposed in registers", lambda: _relayout(task, device)
    if _is_lanewise_fold(task):
        return "fold", "windows added up in vectors", lambda: _fold(task, device)
    channels = _moved_channels(node, task, device)
    if channels is not None:
        reason = "lanes permuted in registers"
        return "channel_moves", reason, lambda: _channel_moves(task, channels, device)
    if _skips_columns(task, device):
        return "pixel_skips", "columns permuted in registers", lambda: _pixel_skips(task, device)
    if _is_pool(task, device):
        return "pooling", "columns shared by neighbouring outputs", lambda: _pool(task, device)
    reason = "scheduled by rule; " + ("channel blocks" if blocked else "row-major or views")
    return "tensor_expression", reason, lambda: tensor_expr.build(task, device)


def _is_relayout(task: TensorTask, device: Device) -> bool:
    """Whether all there is to do is to move channels between planes and blocks."""
    if task.op not in ("copy", "slices", "volumes"):
        return False
    source, target = task.inputs[0], task.outputs[0]
    images = source.shape if task.op == "volumes" else target.shape
    return relayout.supports(images, source.dtype, source.layout, target.layout, device)


def _relayout(task: TensorTask, device: Device) -> tirx.PrimFunc:
    source, target = task.inputs[0], task.outputs[0]
    volumes = {"slices": source, "volumes": target}.get(task.op)
    return relayout.build(
        source.shape if task.op == "volumes" else target.shape,
        source.layout,
        target.layout,
        device,
        aligned=source.aligned,
        depth=1 if volumes is None else volumes.shape[2],
    )


def _is_lanewise_fold(task: TensorTask) -> bool:
    """Whether a `fold` reads its windows as vectors."""
    if task.op != "fold":
        return False
    return fold.supports(task.inputs[0].shape, task.inputs[0].layout, task.outputs[0].layout)


def _fold(task: TensorTask, device: Device) -> tirx.PrimFunc:
    source = task.inputs[0]
    return fold.build(source.shape, dict(task.attrs), len(task.inputs) > 1, source.layout, device)


def _skips_columns(task: TensorTask, device: Device) -> bool:
    """Whether a slice of row-major maps takes every second column."""
    tensors = (*task.inputs, *task.outputs)
    if task.op != "slice" or any(t.layout.block or t.dtype != "float32" for t in tensors):
        return False
    if any(any(t.layout.halo) for t in tensors):
        return False
    attrs = dict(task.attrs)
    return pixel_skips.lanes_for(attrs["begin"], attrs["size"], attrs["step"], device) > 0


def _pixel_skips(task: TensorTask, device: Device) -> tirx.PrimFunc:
    x, attrs = task.inputs[0], dict(task.attrs)
    slices = (attrs["begin"], attrs["size"], attrs["step"])
    return pixel_skips.build(x.shape, *slices, device, aligned=x.aligned)


def _is_pool(task: TensorTask, device: Device) -> bool:
    """Whether a pool runs on vectors of channels."""
    x, out = _image(task.inputs[0]), _image(task.outputs[0])
    one_type = {t.dtype for t in (*task.inputs, *task.outputs)} == {"float32"}
    return one_type and pooling.supports(task.op, dict(task.attrs), x, out, device)


def _pool(task: TensorTask, device: Device) -> tirx.PrimFunc:
    x, out = _image(task.inputs[0]), _image(task.outputs[0])
    return pooling.build(task.op, dict(task.attrs), x, out, device)


def _image(tensor: Tensor) -> tuple[tuple[int, ...], Layout]:
    return tensor.shape, tensor.layout


def _moved_channels(node: Node, task: TensorTask, device: Device) -> list[tuple[int, int]] | None:
    """Operand and channel of every output channel, where a kernel for that puts them together."""
    if node.op not in ("concat", "copy", "slice", "channel_shuffle"):
        return None  # the kernel of a gather is shared by others of its shape
    images = [_image(t) for t in task.inputs]
    if any(t.dtype != "float32" for t in task.inputs) or not channel_moves.supports(
        images, _image(task.outputs[0]), device
    ):
        return None
    if node.op == "copy":
        return [(0, c) for c in range(task.outputs[0].shape[1])]
    if node.op != "concat":
        order = channel_order(node)
        return None if order is None else [(0, int(c)) for c in order]
    if node.attrs["axis"] != 1:
        return None
    return [(i, c) for i, t in enumerate(task.inputs) for c in range(t.shape[1])]


def _channel_moves(
    task: TensorTask, channels: list[tuple[int, int]], device: Device
) -> tirx.PrimFunc:
    images = [_image(t) for t in (*task.inputs, task.outputs[0])]
    return channel_moves.build(images[:-1], images[-1], channels, device)
