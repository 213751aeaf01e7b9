"""ResNeXt-50 32×4d (Xie et al. 2017): grouped 3×3 bottlenecks."""

from __future__ import annotations

import torch
from torch import nn

from edgeconv.benchmarks.models.blocks import Classifier, conv_bn

_STAGES = ((128, 256, 3, 1), (256, 512, 4, 2), (512, 1024, 6, 2), (1024, 2048, 3, 2))


class Bottleneck(nn.Module):
    """1×1, grouped 3×3, 1×1, and a shortcut."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, width, 1),
            conv_bn(width, width, 3, stride, groups),
            conv_bn(width, outputs, 1, activation=None),
        )
        same = stride == 1 and inputs == outputs
        shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride, activation=None)
        self.shortcut: nn.Module = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNeXt50(Classifier):
    """Four stages of bottlenecks with 32 groups."""

    def __init__(self, groups: int = 32, classes: int = 1000) -> None:
        layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for width, outputs, repeats, stride in _STAGES:
            for i in range(repeats):
                first = stride if i == 0 else 1
                layers.append(Bottleneck(channels, width, outputs, first, groups))
                channels = outputs
        super().__init__(nn.Sequential(*layers), channels, classes)
