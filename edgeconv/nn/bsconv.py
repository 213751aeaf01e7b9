"""Blueprint separable convolutions (Haase and Amthor, "Rethinking Depthwise Separable
Convolutions: How Intra-Kernel Correlations Lead to Improved MobileNets", CVPR 2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgeconv.nn.options import Block, Padding, Pair, depthwise, pointwise, require


class BSConvU(Block):
    """Unconstrained: 1×1 (C→K), then depthwise; nothing but batch norm between.

    Stride, padding, dilation and bias belong to the depthwise convolution, so the 1×1 runs at the
    input's resolution. Weights: C·K + K·R·S.

    Args:
        batch_norm: normalise after the 1×1.
        padding_mode: of nn.Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        *,
        bias: bool = True,
        batch_norm: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        self.add_module("pointwise", pointwise(in_channels, out_channels))
        if batch_norm:
            self.add_module("norm", nn.BatchNorm2d(out_channels))
        last = depthwise(
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            padding_mode=padding_mode,
        )
        self.add_module("depthwise", last)


class BSConvS(Block):
    """Subspace: 1×1 (C→C'), 1×1 (C'→K), then depthwise; nothing but batch norm between.

    C' = min(C, max(least, ceil(p·C))). Weights: C'·(C + K) + K·R·S.

    Args:
        p: share of the input channels that the subspace has; the paper takes 1/4, and 1/6 in
            MobileNetV2 and V3.
        least: lower bound of C', where C allows it.
        batch_norm: normalise after each 1×1.
        padding_mode: of nn.Conv2d.

    Raises:
        EdgeconvError: p is not between 0 and 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        *,
        bias: bool = True,
        p: float = 0.25,
        least: int = 4,
        batch_norm: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        require(0 < p <= 1, f"p is a share of the channels, above 0 and up to 1, not {p}")
        self.mid_channels = mid_channels(in_channels, p, least)
        self.add_module("subspace", pointwise(in_channels, self.mid_channels))
        if batch_norm:
            self.add_module("subspace_norm", nn.BatchNorm2d(self.mid_channels))
        self.add_module("pointwise", pointwise(self.mid_channels, out_channels))
        if batch_norm:
            self.add_module("norm", nn.BatchNorm2d(out_channels))
        last = depthwise(
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            padding_mode=padding_mode,
        )
        self.add_module("depthwise", last)

    def orthonormal_loss(self) -> Tensor:
        """‖V·Vᵀ − I‖, Frobenius norm, of the first 1×1's weights V [C', C]."""
        v = self.subspace.weight[:, :, 0, 0]
        identity = torch.eye(self.mid_channels, dtype=v.dtype, device=v.device)
        return torch.linalg.matrix_norm(v @ v.T - identity)


def mid_channels(in_channels: int, p: float, least: int = 4) -> int:
    """C' of BSConv-S."""
    share = math.ceil(p * in_channels - 1e-6)  # 1/6 is not exact: 7 of 36 channels are too many
    return min(in_channels, max(least, share))


def orthonormal_loss(model: nn.Module, alpha: float = 0.1) -> Tensor:
    """alpha times the sum over all BSConvS of a model, to be added to the training loss.

    Keeps the rows of each subspace orthonormal; alpha is the paper's 0.1. Zero without BSConvS.
    """
    losses = [m.orthonormal_loss() for m in model.modules() if isinstance(m, BSConvS)]
    if not losses:
        parameter = next(model.parameters(), None)
        return torch.zeros(()) if parameter is None else parameter.new_zeros(())
    return alpha * torch.stack(losses).sum()
