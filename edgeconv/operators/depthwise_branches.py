"""Several depthwise convolutions of one input as a plain expression."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from edgeconv.operators.convolution import apply_activation
from edgeconv.operators.registry import Pattern, ShapeError, operator
from edgeconv.workload import Activation, Branches


@operator("depthwise_branches", Pattern.OPAQUE)
def depthwise_branches(
    x: te.Tensor,
    weight: te.Tensor,
    *rest: te.Tensor,
    branches: Branches,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    has_bias: bool = False,
    has_residual: bool = False,
    activation: Activation | None = None,
) -> te.Tensor:
    """activation(sum or concatenation of the branches' outputs + residual).

    Each branch makes activation(Σ weight · x + bias) over its own taps in the window `kernel_size`.
    x: [N, C, H, W]; weight: [C, taps], those of the first branch first; bias: [K], K channels of
    the output, or B·C numbers, the first branch's first; residual: [N, K, OH, OW].
    """
    n, c, h, w = (int(d) for d in x.shape)
    top, left, bottom, right = padding
    r, s = kernel_size
    oh = (h + top + bottom - r) // stride[0] + 1
    ow = (w + left + right - s) // stride[1] + 1
    if tuple(int(d) for d in weight.shape) != (c, branches.taps) or min(oh, ow) < 1:
        raise ShapeError(f"{branches} does not fit an input {c}x{h}x{w}")
    operands = list(rest)
    bias = operands.pop(0) if has_bias else None
    residual = operands.pop(0) if has_residual else None

    def pixel(b: Any, i: Any, y: Any, z: Any) -> Any:
        inside = tirx.all(y >= top, y < top + h, z >= left, z < left + w)
        value = x[b, i, y - top, z - left]
        return tirx.if_then_else(inside, value, tirx.const(0, str(x.dtype)))

    padded = te.compute((n, c, h + top + bottom, w + left + right), pixel, name="padded")

    def branch(number: int, start: int) -> te.Tensor:
        own = branches.members[number]

        def element(b: Any, o: Any, y: Any, z: Any) -> Any:
            value = tirx.const(0, str(x.dtype)) if bias is None else bias[number * c + o]
            for t, (kh, kw) in enumerate(own.taps):
                value += padded[b, o, y * stride[0] + kh, z * stride[1] + kw] * weight[o, start + t]
            return apply_activation(value, own.activation)

        return te.compute((n, c, oh, ow), element, name=f"branch{number}")

    outputs, start = [], 0
    for number, own in enumerate(branches.members):
        outputs.append(branch(number, start))
        start += len(own.taps)

    def finish(b: Any, o: Any, y: Any, z: Any) -> Any:
        if branches.concat:
            value = outputs[-1][b, o % c, y, z]
            for number in reversed(range(len(outputs) - 1)):
                inner = outputs[number][b, o % c, y, z]
                value = tirx.if_then_else(o < (number + 1) * c, inner, value)
        else:
            value = outputs[0][b, o, y, z]
            for other in outputs[1:]:
                value += other[b, o, y, z]
        if residual is not None:
            value += residual[b, o, y, z]
        return apply_activation(value, activation)

    channels = c * len(outputs) if branches.concat else c
    return te.compute((n, channels, oh, ow), finish, name="epilogue")
