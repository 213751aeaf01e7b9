"""Convolutions as plain expressions: the meaning every schedule family must reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from edgeconv.clusters import Clusters
from edgeconv.operators.registry import Pattern, ShapeError, get, operator


@dataclass(frozen=True)
class Depth:
    """The third axis of a convolution of volumes [N·size, C, H, W] with `taps` kernels."""

    size: int
    taps: int
    stride: int
    dilation: int
    before: int  # slices of zeros; cut off where negative
    after: int
    gap: int = 1  # from a slice to the next: gap − 1 slices of zeros lie between (transposed)

    @property
    def out_size(self) -> int:
        """Slices of an output volume."""
        reach = self.dilation * (self.taps - 1) + 1
        whole = (self.size - 1) * self.gap + 1
        return (self.before + whole + self.after - reach) // self.stride + 1


@operator("conv2d", Pattern.OPAQUE)
def conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    *rest: te.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    has_bias: bool = False,
    has_residual: bool = False,
    activation: tuple[str, tuple[tuple[str, Any], ...]] | None = None,
    input_shuffle: int = 1,
    input_stride: tuple[int, int] = (1, 1),
    depth: Depth | None = None,
    clusters: Clusters | None = None,
) -> te.Tensor:
    """activation(convolution of the shuffled input + bias + residual); see `channel_shuffle`.

    x: [N, C, H, W]; weight: [K, C/groups, R, S]; bias: [K]; residual: [N, K, OH, OW];
    padding is (top, left, bottom, right), negative where the input is cut; activation is a unary
    operator's (name, attributes). With `input_stride`, zeros are put between the rows and columns
    of x before all else: a transposed convolution. With `depth`, images are slices of volumes,
    and the weights [K, C/groups, taps·R, S] hold a kernel for each tap along the depth. `clusters`
    tells where weights are zero (see Conv2d); it changes nothing.
    """
    taps = 1
    if depth is not None:
        taps = depth.taps
        x = _stacked(x, depth)
    n, c, h, w = (int(d) for d in x.shape)
    c //= taps
    k, cpg, r, s = (int(d) for d in weight.shape)
    r //= taps
    if cpg * groups != c or k % groups:
        raise ShapeError(f"{c} input and {k} output channels do not fit {groups} groups of {cpg}")
    top, left, bottom, right = padding
    down, across = input_stride
    h, w = (h - 1) * down + 1, (w - 1) * across + 1
    oh = (h + top + bottom - dilation[0] * (r - 1) - 1) // stride[0] + 1
    ow = (w + left + right - dilation[1] * (s - 1) - 1) // stride[1] + 1
    if min(oh, ow) < 1:
        raise ShapeError(f"the kernel {r}x{s} does not fit the padded input {h}x{w}")
    kpg = k // groups

    def pixel(b: Any, i: Any, y: Any, z: Any) -> Any:
        inside = [y >= top, y < top + h, z >= left, z < left + w]
        inside += [(y - top) % down == 0] * (down > 1) + [(z - left) % across == 0] * (across > 1)
        at = (
            b,
            i // c * c + shuffled(i % c, c, input_shuffle),
            (y - top) // down,
            (z - left) // across,
        )
        return tirx.if_then_else(tirx.all(*inside), x[at], tirx.const(0, str(x.dtype)))

    padded = te.compute((n, taps * c, h + top + bottom, w + left + right), pixel, name="padded")
    ic = te.reduce_axis((0, cpg), "ic")
    kd = te.reduce_axis((0, taps), "kd")
    kh = te.reduce_axis((0, r), "kh")
    kw = te.reduce_axis((0, s), "kw")
    out = te.compute(
        (n, k, oh, ow),
        lambda b, o, y, z: te.sum(
            padded[
                b,
                kd * c + o // kpg * cpg + ic,
                y * stride[0] + kh * dilation[0],
                z * stride[1] + kw * dilation[1],
            ]
            * weight[o, ic, kd * r + kh, kw],
            axis=[kd, ic, kh, kw],
        ),
        name="conv2d",
    )
    operands = list(rest)
    bias = operands.pop(0) if has_bias else None
    residual = operands.pop(0) if has_residual else None

    def finish(b: Any, o: Any, y: Any, z: Any) -> Any:
        value = out[b, o, y, z]
        if bias is not None:
            value = value + bias[o]
        if residual is not None:
            value = value + residual[b, o, y, z]
        return apply_activation(value, activation)

    return te.compute(out.shape, finish, name="epilogue")


@operator("conv_pair", Pattern.OPAQUE)
def conv_pair(
    x: te.Tensor,
    *operands: te.Tensor,
    first: tuple[tuple[str, Any], ...],
    second: tuple[tuple[str, Any], ...],
) -> te.Tensor:
    """Two `conv2d` with the given attributes, the second reading what the first makes.

    operands: weight [and bias] of the first; weight [, bias] [and residual] of the second.
    """
    attrs = dict(first)
    count = 1 + bool(attrs.get("has_bias"))
    return conv2d(conv2d(x, *operands[:count], **attrs), *operands[count:], **dict(second))


def _stacked(x: te.Tensor, depth: Depth) -> te.Tensor:
    """The slices each output slice reads as its channels: [N·OD, taps·C, H, W], zeros outside."""
    n, c, h, w = (int(d) for d in x.shape)

    def element(b: Any, i: Any, y: Any, z: Any) -> Any:
        slot = b % depth.out_size * depth.stride + i // c * depth.dilation - depth.before
        value = x[b // depth.out_size * depth.size + slot // depth.gap, i % c, y, z]
        inside = [slot >= 0, slot <= (depth.size - 1) * depth.gap]
        inside += [slot % depth.gap == 0] * (depth.gap > 1)
        return tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, str(x.dtype)))

    shape = (n // depth.size * depth.out_size, depth.taps * c, h, w)
    return te.compute(shape, element, name="stacked")


def shuffled(channel: Any, channels: int, groups: int) -> Any:
    """The channel that a shuffle in `groups` groups puts at `channel`; ints or expressions."""
    return channel % groups * (channels // groups) + channel // groups if groups > 1 else channel


@operator("channel_shuffle", Pattern.INJECTIVE)
def channel_shuffle(x: te.Tensor, *, groups: int) -> te.Tensor:
    """x [N, C, H, W] with its channels read as [groups, C/groups] and transposed (ShuffleNet)."""
    channels = int(x.shape[1])
    if channels % groups:
        raise ShapeError(f"{channels} channels cannot be shuffled in {groups} groups")
    return te.compute(
        x.shape, lambda n, c, h, w: x[n, shuffled(c, channels, groups), h, w], name="shuffle"
    )


def apply_activation(value: Any, activation: tuple[str, tuple[tuple[str, Any], ...]] | None) -> Any:
    """`value` through a unary operator given as (name, attributes), or unchanged for None."""
    if activation is None:
        return value
    scalar = get(activation[0]).scalar
    if scalar is None:
        raise ShapeError(f"'{activation[0]}' is not a unary elementwise operator")
    return scalar(value, **dict(activation[1]))
