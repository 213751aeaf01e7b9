"""The blocks of edgeconv.nn, exported, are what the compiler runs as single operators."""

from __future__ import annotations

import pytest
import torch

import edgeconv
from edgeconv import nn
from tests.nn.exporting import export

BRANCHES = [(3, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize(
    ("block", "channels", "size", "kinds"),
    [
        (nn.DDC(48, 64, BRANCHES), 48, 14, ["merged depthwise", "pointwise"]),
        (
            nn.DDC(48, 64, BRANCHES, batch_norm=True, activation=torch.nn.ReLU),
            48,
            14,
            ["depthwise branches ×3", "pointwise"],
        ),
        (
            nn.DDC(48, 64, BRANCHES, combine="concat", activation=torch.nn.ReLU),
            48,
            14,
            ["depthwise branches ×3", "pointwise"],
        ),
        (nn.SlidingChannelConv2d(64, 96, 4, 0.5), 64, 14, ["sliding-channel"]),
        (nn.SlidingChannelConv2d(64, 64, 2, 0.33), 64, 14, ["sliding-channel"]),
        (nn.BSConvU(32, 32, 3, padding=1), 32, 112, ["pointwise + depthwise"]),
    ],
    ids=["DDC", "DDC, activated", "DDC, concatenated", "SCC", "SCC, odd steps", "BSConv-U"],
)
def test_one_operator(block: torch.nn.Module, channels: int, size: int, kinds: list[str]) -> None:
    model = export(block.eval(), torch.randn(1, channels, size, size))
    layers = edgeconv.explain(model, target="x86-avx512", threads=1)
    assert [layer.op for layer in layers if layer.op != "copy"] == kinds
