"""Depthwise convolutions of several kernels and dilations on one input, combined, then 1×1.

The general form of the DDC layer, "a combination of depthwise convolutions and dilated
convolutions" (Chen et al. 2021), whose exact wiring is not public.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeconv.nn.options import Activation, Pair, depthwise, pair, pointwise, require, same_padding


class DDC(nn.Module):
    """combine_i(depthwise(kernel_i, dilation_i)), then 1×1.

    Args:
        branches: (kernel, dilation) of each.
        combine: "sum" adds the branches, "concat" gives the 1×1 B·C channels.
        padding: of each branch; None keeps the size at stride 1.
        bias: of the 1×1; without batch norm the branches have a bias too, where `activation`
            keeps it from merging into the 1×1's.
        batch_norm: normalise each branch.
        activation: makes the module after each branch, or None: a sum of linear branches is one
            depthwise convolution to edgeconv.
        padding_mode: of nn.Conv2d.

    Raises:
        EdgeconvError: no branches, an unknown `combine`, or no padding that keeps the size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        branches: Sequence[tuple[Pair, Pair]] = ((3, 1), (3, 2)),
        *,
        combine: Literal["sum", "concat"] = "sum",
        stride: Pair = 1,
        padding: Sequence[Pair] | None = None,
        bias: bool = True,
        batch_norm: bool = False,
        activation: Activation | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        require(len(branches) > 0, "a DDC has at least one branch (kernel, dilation)")
        require(combine in ("sum", "concat"), f"combine is 'sum' or 'concat', not {combine!r}")
        pads = [same_padding(k, d) for k, d in branches] if padding is None else list(padding)
        require(len(pads) == len(branches), f"{len(pads)} paddings for {len(branches)} branches")
        self.combine = combine
        self.branches = nn.ModuleList()
        for (kernel, dilation), pad in zip(branches, pads, strict=True):
            layers: list[nn.Module] = [
                depthwise(
                    in_channels,
                    kernel,
                    stride=stride,
                    padding=pad,
                    dilation=dilation,
                    bias=activation is not None and not batch_norm,
                    padding_mode=padding_mode,
                )
            ]
            layers += [nn.BatchNorm2d(in_channels)] * batch_norm
            layers += [activation()] if activation is not None else []
            self.branches.append(nn.Sequential(*layers))
        width = in_channels * (len(branches) if combine == "concat" else 1)
        self.pointwise = pointwise(width, out_channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, K, OH, OW]."""
        results = [branch(x) for branch in self.branches]
        if self.combine == "concat":
            return self.pointwise(torch.cat(results, 1))
        total = results[0]
        for result in results[1:]:
            total = total + result
        return self.pointwise(total)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> DDC:
        """The block in the place of a convolution, with weights of its own.

        By default two branches: the convolution's kernel, and the same of twice the dilation.

        Raises:
            EdgeconvError: a branch can't have the convolution's output size.
        """
        twice = (2 * conv.dilation[0], 2 * conv.dilation[1])
        default = ((conv.kernel_size, conv.dilation), (conv.kernel_size, twice))
        branches = options.pop("branches", default)
        taken = {
            "stride": conv.stride,
            "padding": [_padding(conv, kernel, dilation) for kernel, dilation in branches],
            "bias": conv.bias is not None,
            "padding_mode": conv.padding_mode,
        }
        return cls(conv.in_channels, conv.out_channels, branches, **{**taken, **options})


def _padding(conv: nn.Conv2d, kernel: Pair, dilation: Pair) -> tuple[int, int]:
    """Padding with which a branch has the output size of `conv`."""
    if conv.padding == "same":
        return same_padding(kernel, dilation)
    given = (0, 0) if conv.padding == "valid" else pair(conv.padding)
    pads = []
    for axis in range(2):
        more = pair(dilation)[axis] * (pair(kernel)[axis] - 1)
        more -= conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        require(
            more % 2 == 0 and given[axis] + more // 2 >= 0,
            f"a branch of kernel {kernel}, dilation {dilation} can't have its output size",
        )
        pads.append(given[axis] + more // 2)
    return pads[0], pads[1]
