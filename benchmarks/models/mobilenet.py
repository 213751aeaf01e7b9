"""MobileNetV1 (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018)."""

from __future__ import annotations

import torch
from torch import nn

from edgeconv.benchmarks.models.blocks import Classifier, conv_bn

_V1 = (  # (output channels, stride) of each depthwise-separable block
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
_V2 = (  # (expansion, output channels, repeats, stride of the first)
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class MobileNetV1(Classifier):
    """Depthwise-separable convolutions; `width` scales all channels."""

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        channels = int(32 * width)
        layers = [conv_bn(3, channels, 3, 2)]
        for outputs, stride in _V1:
            scaled = int(outputs * width)
            layers.append(conv_bn(channels, channels, 3, stride, groups=channels))
            layers.append(conv_bn(channels, scaled, 1))
            channels = scaled
        super().__init__(nn.Sequential(*layers), channels, classes)


class InvertedResidual(nn.Module):
    """Expand by a pointwise, filter depthwise, project; with a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [conv_bn(inputs, hidden, 1, activation=nn.ReLU6)]
        layers.append(conv_bn(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6))
        layers.append(conv_bn(hidden, outputs, 1, activation=None))
        self.body = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y: torch.Tensor = self.body(x)
        return x + y if self.shortcut else y


class MobileNetV2(Classifier):
    """Inverted residuals with linear bottlenecks."""

    def __init__(self, classes: int = 1000) -> None:
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, activation=nn.ReLU6)]
        channels = 32
        for expansion, outputs, repeats, stride in _V2:
            for i in range(repeats):
                first = stride if i == 0 else 1
                layers.append(InvertedResidual(channels, outputs, first, expansion))
                channels = outputs
        layers.append(conv_bn(channels, 1280, 1, activation=nn.ReLU6))
        super().__init__(nn.Sequential(*layers), 1280, classes)
