"""Sliding-channel convolution (Wang et al., "DSXplore: Optimizing Convolutional Neural Networks
via Sliding-Channel Convolutions", IPDPS 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.nn.options import Pair, depthwise, pair, require, window_of


class SlidingChannelConv2d(nn.Module):
    """1×1 convolution in which each output channel reads a window of u = C/cg input channels.

    y[k] = Σ_{j<u} W[k, j] · x[(start[k] + j) mod C]; start[k] = floor(k·(1 − co)·u) mod C, or the
    table given. Weights: K·u. `start` is a buffer [K], saved with the weights. Exported, it is a
    Slice for each distinct window (a Concat of two where the window wraps around), a Concat of
    them, a grouped 1×1, and a shuffle where windows repeat (and a Slice, if the last cycle of
    windows is not complete).

    Args:
        channel_groups: cg; divides the input channels.
        overlap: co, the share of a window that the next one reads too.
        start: windows of another rule than the above, one number for each output channel.

    Raises:
        EdgeconvError: the arguments don't fit together.
    """

    replaces_pointwise = True
    start: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channel_groups: int = 2,
        overlap: float | Fraction = 0.5,
        *,
        stride: Pair = 1,
        bias: bool = True,
        start: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        require(
            channel_groups > 0 and in_channels % channel_groups == 0,
            f"{in_channels} channels have no windows of 1/{channel_groups} of them",
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.width = in_channels // channel_groups
        self.stride = pair(stride)
        if start is None:
            start = window_starts(in_channels, out_channels, channel_groups, overlap)
        self._cycle = self._cycle_of([int(s) for s in start])
        self.register_buffer("start", torch.tensor(list(start), dtype=torch.int64))
        self.register_load_state_dict_post_hook(_read_table)
        self.weight = nn.Parameter(torch.empty(out_channels, self.width, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights and bias as nn.Conv2d initialises them, for a fan-in of one window."""
        bound = 1 / math.sqrt(self.width)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, K, OH, OW]."""
        cycle = self._cycle
        period, repeats = len(cycle), -(-self.out_channels // len(cycle))
        spare = period * repeats - self.out_channels
        windows = {start: self._window(x, start) for start in dict.fromkeys(cycle)}
        stacked = [windows[start] for start in cycle]
        x = torch.cat(stacked, 1) if period > 1 else stacked[0]
        weight, bias = self.weight, self.bias
        shuffled = period > 1 and repeats > 1
        if shuffled:  # output k reads window k mod period; a group is the outputs of one window
            weight = functional.pad(weight, (0, 0) * 3 + (0, spare)) if spare else weight
            weight = weight.reshape(repeats, period, self.width, 1, 1).transpose(0, 1)
            weight = weight.reshape(period * repeats, self.width, 1, 1)
            if bias is not None:
                bias = functional.pad(bias, (0, spare)) if spare else bias
                bias = bias.reshape(repeats, period).t().reshape(-1)
        y = functional.conv2d(x, weight, bias, self.stride, groups=period)
        if shuffled:
            n, k, h, w = y.shape
            y = y.reshape(n, period, repeats, h, w).transpose(1, 2).reshape(n, k, h, w)
        return y[:, : self.out_channels] if spare else y

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, window={self.width}, "
            f"windows={len(set(self._cycle))}, stride={self.stride}, bias={self.bias is not None}"
        )

    def dense_weight(self) -> Tensor:
        """The same convolution's weights [K, C, 1, 1] with zeros outside the windows."""
        offsets = torch.arange(self.width, device=self.start.device)
        columns = (self.start[:, None] + offsets) % self.in_channels
        dense = self.weight.new_zeros(self.out_channels, self.in_channels)
        return dense.scatter(1, columns, self.weight[:, :, 0, 0])[:, :, None, None]

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> nn.Module:
        """In the place of a 1×1: the layer; of a larger kernel: depthwise, then the layer.

        Raises:
            EdgeconvError: a padded 1×1, or channels that have no such windows.
        """
        taken = window_of(conv)
        bias, kernel, stride = taken.pop("bias"), taken.pop("kernel_size"), taken["stride"]
        channels = (conv.in_channels, conv.out_channels)
        if kernel == (1, 1):
            require(taken["padding"] in ((0, 0), "valid"), "a padded 1×1 convolution")
            return cls(*channels, stride=stride, bias=bias, **options)
        return nn.Sequential(
            depthwise(conv.in_channels, kernel, bias=False, **taken),
            cls(*channels, bias=bias, **options),
        )

    def _cycle_of(self, table: list[int]) -> tuple[int, ...]:
        """The part of a table that the rest repeats, after checking it."""
        require(len(table) == self.out_channels, f"{len(table)} windows for {self.out_channels}")
        require(
            all(0 <= s < self.in_channels for s in table),
            f"a window starts outside the {self.in_channels} input channels",
        )
        return next(
            tuple(table[:period])
            for period in range(1, len(table) + 1)
            if -len(table) % period <= len(table) // 8  # outputs that fill up the last cycle
            and table == (table[:period] * -(-len(table) // period))[: len(table)]
        )

    def _window(self, x: Tensor, start: int) -> Tensor:
        """Channels start … start + u − 1 mod C."""
        end = start + self.width
        if self.width == self.in_channels and start == 0:
            return x
        if end <= self.in_channels:
            return x[:, start:end]
        return torch.cat([x[:, start:], x[:, : end - self.in_channels]], 1)


def _read_table(module: SlidingChannelConv2d, _: Any) -> None:
    """After weights were loaded: the table may be another."""
    module._cycle = module._cycle_of(module.start.tolist())


def window_starts(
    in_channels: int, out_channels: int, channel_groups: int, overlap: float | Fraction
) -> tuple[int, ...]:
    """floor(k·(1 − co)·u) mod C for each output channel k; the overlap is taken as the fraction
    it is nearest to, so that 0.9 of 10 channels is 9.

    Raises:
        EdgeconvError: an overlap of less than 0, or of 1 and more.
    """
    require(0 <= overlap < 1, f"the overlap is at least 0 and below 1, not {overlap}")
    step = (1 - Fraction(overlap).limit_denominator(10_000)) * (in_channels // channel_groups)
    return tuple(math.floor(k * step) % in_channels for k in range(out_channels))
