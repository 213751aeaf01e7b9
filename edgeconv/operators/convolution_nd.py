"""Convolutions other than `conv2d`: three spatial axes, and transposed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.convolution import apply_activation
from edgeconv.operators.pooling import Ints, pad_spatial, window_sizes
from edgeconv.operators.registry import Pattern, ShapeError, operator


def _correlate(
    x: te.Tensor,
    weight: Any,
    out_channels: int,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    groups: int,
) -> te.Tensor:
    """Σ x · weight(o, i, k…) over a group's channels and the window; x is padded already."""
    shape = static_shape(x)
    sizes = window_sizes(shape[2:], kernel, stride, dilation, (0,) * (2 * len(kernel)))
    channels = shape[1] // groups
    ic = te.reduce_axis((0, channels), "ic")
    axes = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(kernel)]
    per_group = out_channels // groups

    def element(n: Any, o: Any, *at: Any) -> Any:
        moved = (y * s + k * d for y, s, k, d in zip(at, stride, axes, dilation, strict=True))
        value = x(n, o // per_group * channels + ic, *moved)
        return te.sum(value * weight(o, ic, *axes), axis=[ic, *axes])

    return te.compute((shape[0], out_channels, *sizes), element, name="convolution")


def _stuffed(x: te.Tensor, stride: Ints, before: Sequence[int], after: Sequence[int]) -> te.Tensor:
    """x with its elements `stride` apart and zeros around; negative numbers of zeros cut it."""
    shape, rank = static_shape(x), len(stride)
    whole = [(d - 1) * s + 1 for d, s in zip(shape[2:], stride, strict=True)]
    sizes = [w + b + a for w, b, a in zip(whole, before, after, strict=True)]
    if min(sizes) < 1:
        raise ShapeError(f"the padded input would have sizes {sizes}")

    def element(n: Any, ch: Any, *at: Any) -> Any:
        places = [at[i] - before[i] for i in range(rank)]
        inside = []
        for place, size, step in zip(places, whole, stride, strict=True):
            inside += [place >= 0, place < size] + [place % step == 0] * (step > 1)
        moved = (place // step for place, step in zip(places, stride, strict=True))
        return tirx.if_then_else(tirx.all(*inside), x(n, ch, *moved), tirx.const(0, str(x.dtype)))

    return te.compute((*shape[:2], *sizes), element, name="stuffed")


def _add_bias(out: te.Tensor, bias: tuple[te.Tensor, ...]) -> te.Tensor:
    if not bias:
        return out
    return te.compute(out.shape, lambda n, c, *at: out(n, c, *at) + bias[0](c), name="bias")


@operator("conv3d", Pattern.OPAQUE)
def conv3d(
    x: te.Tensor,
    weight: te.Tensor,
    *rest: te.Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    has_bias: bool = False,
    has_residual: bool = False,
    activation: tuple[str, tuple[tuple[str, Any], ...]] | None = None,
    input_stride: Ints = (1, 1, 1),
) -> te.Tensor:
    """activation(convolution + bias + residual), as `conv2d`; also for `input_stride`.

    x: [N, C, D, H, W]; weight: [K, C/groups, T, R, S]; bias: [K]; padding: begins, then ends.
    """
    shape, (k, cpg, *kernel) = static_shape(x), static_shape(weight)
    if cpg * groups != shape[1] or k % groups:
        raise ShapeError(f"{shape[1]} input and {k} output channels do not fit {groups} groups")
    padded = _stuffed(x, input_stride, padding[:3], padding[3:])
    out = _correlate(padded, weight, k, tuple(kernel), stride, dilation, groups)
    out = _add_bias(out, rest[:1] if has_bias else ())
    if has_residual:
        out = _map(out, lambda value, *at: value + rest[-1](*at))
    return _map(out, lambda value, *at: apply_activation(value, activation)) if activation else out


def _map(x: te.Tensor, f: Callable[..., Any]) -> te.Tensor:
    """f(element, *index) of every element."""
    return te.compute(x.shape, lambda *at: f(x(*at), *at), name="epilogue")


def _conv_transpose(
    x: te.Tensor,
    weight: te.Tensor,
    *bias: te.Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    output_padding: Ints,
    groups: int,
) -> te.Tensor:
    """Each input element spreads over a window of the output; gathered from a zero-stuffed input.

    x: [N, C, …]; weight: [C, K/groups, …]; bias: [K]; `padding` is cut off the output (begins,
    then ends) and may be negative; `output_padding` is added at the ends.
    """
    shape, (c, kpg, *kernel) = static_shape(x), static_shape(weight)
    if c != shape[1] or c % groups:
        raise ShapeError(f"weights of {c} channels, {groups} groups, {shape[1]} input channels")
    rank = len(kernel)
    before = [dilation[i] * (kernel[i] - 1) - padding[i] for i in range(rank)]
    after = [
        dilation[i] * (kernel[i] - 1) - padding[rank + i] + output_padding[i] for i in range(rank)
    ]
    zeros = _stuffed(x, stride, before, after)
    per_group = c // groups

    def flipped(o: Any, ic: Any, *at: Any) -> Any:
        mirror = (k - 1 - y for k, y in zip(kernel, at, strict=True))
        return weight(o // kpg * per_group + ic, o % kpg, *mirror)

    ones = (1,) * rank
    out = _correlate(zeros, flipped, kpg * groups, tuple(kernel), ones, dilation, groups)
    return _add_bias(out, bias)


for _rank in (2, 3):
    operator(f"conv{_rank}d_transpose", Pattern.OPAQUE)(_conv_transpose)


@operator("integer_conv2d", Pattern.OPAQUE)
def integer_conv2d(
    x: te.Tensor, weight: te.Tensor, *, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> te.Tensor:
    """`conv2d` of int32 tensors that hold small integers."""
    k, _, *kernel = static_shape(weight)
    padded = pad_spatial(x, padding, tirx.const(0, str(x.dtype)))
    return _correlate(padded, weight, k, tuple(kernel), stride, dilation, groups)
