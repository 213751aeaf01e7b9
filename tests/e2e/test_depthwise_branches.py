"""DDC layers and depthwise pyramids, as PyTorch exports them, against ONNX Runtime."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeconv
from edgeconv.benchmarks.harness import relative_error
from tests.e2e.models import expected

TOLERANCE = 1e-5  # of the output's max-norm
TARGETS = ("host", "x86-avx2", "x86-sse4")
Branch = tuple[tuple[int, int], int]  # kernel size, dilation


class Ddc(nn.Module):
    """Parallel depthwise branches, summed or concatenated, then perhaps a 1×1."""

    def __init__(
        self,
        channels: int,
        branches: Sequence[Branch],
        *,
        concat: bool = False,
        norm: bool = False,
        act: type[nn.Module] | None = None,
        stride: int = 1,
        pointwise: int = 0,
        residual: bool = False,
        last: type[nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.concat, self.residual, self.last = concat, residual, last()
        units = []
        for (r, s), d in branches:
            padding = (d * (r - 1) // 2, d * (s - 1) // 2)
            layers: list[nn.Module] = [
                nn.Conv2d(channels, channels, (r, s), stride, padding, d, channels, bias=not norm)
            ]
            layers += [nn.BatchNorm2d(channels)] * norm + ([act()] if act else [])
            units.append(nn.Sequential(*layers))
        self.branches = nn.ModuleList(units)
        width = channels * len(branches) if concat else channels
        self.pointwise = nn.Conv2d(width, pointwise, 1) if pointwise else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.branches]
        y = torch.cat(outputs, 1) if self.concat else sum(outputs[1:], outputs[0])
        return self.pointwise(self.last(y + x if self.residual else y))


class Pyramid(nn.Module):
    """ASPP: a pointwise branch, dilated depthwise ones, and the image's mean, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())
        branches: list[Branch] = [((3, 3), d) for d in (2, 6, 12)]
        self.dilated = Ddc(channels, branches, concat=True, norm=True, act=nn.ReLU)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.last = nn.Conv2d(5 * channels, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean(x).expand(-1, -1, *x.shape[2:])
        return self.last(torch.cat([self.point(x), self.dilated(x), mean], 1))


def exported(model: nn.Module, shape: Sequence[int]) -> onnx.ModelProto:
    """The ONNX model, with batch norms that do something."""
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            nn.init.uniform_(part.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    file = io.BytesIO()
    torch.onnx.export(model.eval(), (torch.zeros(*shape),), file, dynamo=False)
    return onnx.load_from_string(file.getvalue())


def check(model: nn.Module, shape: Sequence[int], target: str = "host") -> list[str]:
    """Compare with ONNX Runtime; the kinds of the layers."""
    proto = exported(model, shape)
    (name,) = (i.name for i in proto.graph.input)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    compiled = edgeconv.compile(proto, target, threads=1)
    got, wanted = compiled.run({name: x}), expected(proto, {name: x})
    assert relative_error([*got.values()], [*wanted.values()]) <= TOLERANCE
    return [layer.op for layer in compiled.manifest.layers]


D123: list[Branch] = [((3, 3), d) for d in (1, 2, 3)]
K357: list[Branch] = [((k, k), 1) for k in (3, 5, 7)]
BRANCHES = "depthwise branches ×3"
CASES = {
    "linear": (Ddc(16, D123), ["merged depthwise"]),
    "norm, then relu on the sum": (Ddc(12, D123, norm=True, last=nn.ReLU), ["merged depthwise"]),
    "relu": (Ddc(16, D123, act=nn.ReLU), [BRANCHES]),
    "norm and hardswish, 1x1": (
        Ddc(20, K357, norm=True, act=nn.Hardswish, pointwise=8),
        [BRANCHES],
    ),
    "concat of odd channels": (Ddc(9, K357, concat=True, act=nn.ReLU), [BRANCHES]),
    "concat, 1x1": (Ddc(32, D123, concat=True, pointwise=16, last=nn.ReLU), [BRANCHES]),
    "stride": (Ddc(6, K357, act=nn.ReLU, stride=2), [BRANCHES]),
    "not square": (Ddc(5, [((1, 7), 1), ((7, 1), 1), ((3, 3), 2)]), ["merged depthwise"]),
    "residual": (Ddc(16, D123, act=nn.ReLU, residual=True), ["depthwise branches ×4"]),
    "ASPP": (Pyramid(16), [BRANCHES]),
}


@pytest.mark.parametrize("name", CASES)
def test_blocks(name: str) -> None:
    model, kinds = CASES[name]
    found = check(model, (1, model_channels(model), 19, 17))
    assert [kind for kind in found if "depthwise" in kind] == kinds


def test_reports_name_them() -> None:
    """inspect, explain and profile say what becomes one operator, and count real taps only."""
    proto = exported(Ddc(8, D123, pointwise=8), (1, 8, 9, 9))
    (block,) = edgeconv.inspect(proto).blocks
    assert block.startswith("merged depthwise: 8x9x9->8 k7x7 s1x1 p3,3,3,3 d1x1 g8 25taps#")
    assert block.count("Conv") == 3
    layers = edgeconv.explain(proto, "host", threads=1)
    assert ("merged depthwise", 8 * 81 * 25) in [(layer.op, layer.macs) for layer in layers]
    model = edgeconv.compile(proto, "host", threads=1)
    assert "merged depthwise" in [row.op for row in model.profile(repeat=1).rows]


def model_channels(model: nn.Module) -> int:
    """Input channels."""
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("name", ["linear", "norm and hardswish, 1x1", "concat of odd channels"])
def test_other_vectors(name: str, target: str) -> None:
    model, _ = CASES[name]
    check(model, (2, model_channels(model), 13, 21), target)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_random_blocks(seed: int) -> None:
    rng = random.Random(seed)
    channels = rng.choice((2, 3, 7, 8, 16, 17, 24, 32, 40))
    odd = (1, 3, 5, 7)
    branches = [
        ((rng.choice(odd), rng.choice(odd)), rng.randint(1, 4)) for _ in range(rng.randint(2, 4))
    ]
    stride = rng.choice((1, 1, 2, 3))
    model = Ddc(
        channels,
        branches,
        concat=rng.random() < 0.4,
        norm=rng.random() < 0.5,
        act=rng.choice((None, nn.ReLU, nn.Hardswish)),
        stride=stride,
        pointwise=rng.choice((0, 0, 8, 13)),
        last=rng.choice((nn.Identity, nn.ReLU)),
    )
    shape = (rng.randint(1, 2), channels, rng.randint(3, 30), rng.randint(3, 40))
    check(model, shape, rng.choice(TARGETS))
