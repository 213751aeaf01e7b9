"""Convolutions: 1-D ones become 2-D, all paddings explicit."""

from __future__ import annotations

from collections.abc import Sequence

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts, in_float32
from edgeconv.importer.windows import Ints, as_1d, as_2d, integers, window
from edgeconv.operators.registry import ShapeError


@converts("Conv")
@in_float32
def conv(node: NodeContext) -> Value:
    """Convolution with one to three spatial axes."""
    x, weight, bias = node.input(0), node.input(1), node.optional(2)
    rank = len(x.shape) - 2
    if len(weight.shape) != len(x.shape):
        raise ShapeError(f"the weight has {len(weight.shape)} axes, the input {len(x.shape)}")
    if rank not in (1, 2, 3):
        raise node.refuse(f"a convolution over {rank} axes")
    win = window(node, x.shape[2:], weight.shape[2:])
    groups = int(node.attr("group", 1))
    if rank == 1:
        win = win.with_front_axis()
        x, weight = as_2d(node, x), as_2d(node, weight)
    operands = [x, weight, *([] if bias is None else [bias])]
    common = {
        "stride": win.stride,
        "padding": win.padding,
        "dilation": win.dilation,
        "groups": groups,
    }
    if rank == 3:
        return node.emit("conv3d", operands, **common, has_bias=bias is not None)
    if min(win.padding) < 0:
        raise node.refuse("negative pads")
    out = node.emit("conv2d", operands, **common, has_bias=bias is not None)
    return as_1d(node, out) if rank == 1 else out


@converts("ConvTranspose")
@in_float32
def conv_transpose(node: NodeContext) -> Value:
    """Transposed convolution with one to three spatial axes."""
    x, weight, bias = node.input(0), node.input(1), node.optional(2)
    rank = len(x.shape) - 2
    if rank not in (1, 2, 3):
        raise node.refuse(f"a convolution over {rank} axes")
    kernel = weight.shape[2:]
    stride = integers(node, "strides", [1] * rank)
    dilation = integers(node, "dilations", [1] * rank)
    extra = integers(node, "output_padding", [0] * rank)
    padding, extra = _cut(node, x.shape[2:], kernel, stride, dilation, extra)
    if rank == 1:
        stride, dilation, extra = (1, *stride), (1, *dilation), (0, *extra)
        padding = (0, padding[0], 0, padding[1])
        x, weight = as_2d(node, x), as_2d(node, weight)
    out = node.emit(
        "conv3d_transpose" if rank == 3 else "conv2d_transpose",
        [x, weight, *([] if bias is None else [bias])],
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=extra,
        groups=int(node.attr("group", 1)),
    )
    return as_1d(node, out) if rank == 1 else out


def _cut(
    node: NodeContext,
    spatial: Sequence[int],
    kernel: Sequence[int],
    stride: Ints,
    dilation: Ints,
    extra: Ints,
) -> tuple[Ints, Ints]:
    """What is cut off the whole output (begins, then ends), and what is added at its ends."""
    rank = len(spatial)
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    shape = integers(node, "output_shape", [])[-rank:]
    if not shape and mode in ("SAME_UPPER", "SAME_LOWER"):
        shape = tuple(d * s for d, s in zip(spatial, stride, strict=True))
    if not shape:
        pads = integers(node, "pads", [0] * (2 * rank)) if mode == "NOTSET" else (0,) * (2 * rank)
        return pads, extra
    begins, ends = [], []
    for i, size in enumerate(shape):
        whole = stride[i] * (spatial[i] - 1) + extra[i] + (kernel[i] - 1) * dilation[i] + 1
        total = whole - size
        if total < 0:  # the output is wider than what the input reaches
            begins.append(0)
            ends.append(total)
            continue
        half, rest = total // 2, total - total // 2
        begins.append(half if mode == "SAME_UPPER" else rest)
        ends.append(rest if mode == "SAME_UPPER" else half)
    return (*begins, *ends), extra
