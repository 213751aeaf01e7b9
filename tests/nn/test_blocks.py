"""The blocks: parameters, export, equal results, training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeconv.errors import EdgeconvError
from edgeconv.nn import (
    DDC,
    BSConvS,
    BSConvU,
    GroupedBottleneck,
    SlidingChannelConv2d,
    orthonormal_loss,
)
from edgeconv.nn.bsconv import mid_channels
from tests.nn.exporting import EXPORTERS, check, with_statistics

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "bsconv-u": lambda: BSConvU(12, 19, 3, 2, 1),
    "bsconv-u, norm": lambda: BSConvU(12, 24, 5, 1, (2, 1), 1, batch_norm=True),
    "bsconv-s": lambda: BSConvS(24, 17, 3, 1, 2, 2, p=1 / 6, batch_norm=True, bias=False),
    "ddc, sum": lambda: DDC(12, 20, ((3, 1), (3, 2), ((1, 5), 1)), stride=2),
    "ddc, concat": lambda: DDC(
        9, 20, ((3, 1), (5, 3)), combine="concat", batch_norm=True, activation=nn.ReLU
    ),
    "ddc, biases": lambda: DDC(8, 20, ((3, 1), (3, 3)), activation=nn.SiLU, bias=False),
    "grouped": lambda: GroupedBottleneck(24, 20, groups=3, stride=2),
    "grouped, n": lambda: GroupedBottleneck(20, 33, 5, dilation=2, activation=nn.Hardswish),
    "sliding": lambda: SlidingChannelConv2d(12, 24, 3, 0.5),
}


def weights(module: nn.Module) -> int:
    """Elements of all convolution kernels."""
    return sum(m.weight.numel() for m in module.modules() if hasattr(m, "weight") and
               m.weight is not None and m.weight.dim() == 4)  # fmt: skip


def test_parameters_of_the_paper() -> None:
    """128→256, 3×3: dense 294,912."""
    assert weights(nn.Conv2d(128, 256, 3)) == 294_912
    assert weights(BSConvU(128, 256, 3)) == 35_072
    assert weights(BSConvS(128, 256, 3, p=1 / 4)) == 14_592
    assert weights(GroupedBottleneck(128, 256, groups=8)) == 128 * 16 * 9 + 128 * 256
    assert weights(DDC(128, 256, ((3, 1), (5, 1)))) == 128 * (9 + 25) + 128 * 256
    assert weights(DDC(128, 256, ((3, 1), (5, 1)), combine="concat")) == 128 * 34 + 2 * 128 * 256
    assert weights(SlidingChannelConv2d(128, 256, 4, 0.5)) == 256 * 32


@pytest.mark.parametrize(
    ("channels", "p", "wanted"),
    [
        *((128, 1 / 4, 32), (8, 1 / 4, 4), (3, 1 / 4, 3), (24, 1 / 6, 4), (25, 1 / 6, 5)),
        *((36, 1 / 6, 6), (144, 1 / 6, 24), (30, 0.1, 4), (70, 0.1, 7), (16, 1.0, 16)),
    ],
)
def test_mid_channels(channels: int, p: float, wanted: int) -> None:
    assert mid_channels(channels, p) == wanted
    assert BSConvS(channels, 8, p=p).mid_channels == wanted


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", BLOCKS)
def test_exports_and_compiles(name: str, exporter: str) -> None:
    module = with_statistics(BLOCKS[name]())
    channels = next(m for m in module.modules() if hasattr(m, "in_channels")).in_channels
    check(module, torch.randn(2, channels, 11, 14), exporter)


@pytest.mark.parametrize("name", BLOCKS)
@torch.enable_grad()  # an engine measured in this process may have switched it off
def test_a_training_step_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    module = BLOCKS[name]().train()
    channels = next(m for m in module.modules() if hasattr(m, "in_channels")).in_channels
    x = torch.randn(4, channels, 11, 14)
    wanted = torch.randn_like(module(x))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)

    def loss() -> torch.Tensor:
        return (module(x) - wanted).square().mean() + orthonormal_loss(module, 1e-3)

    before = loss()
    before.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    optimizer.step()
    assert loss() < before


def test_orthonormal_loss() -> None:
    block = BSConvS(16, 8, p=0.25)
    with torch.no_grad():
        block.subspace.weight.copy_(torch.eye(4, 16)[:, :, None, None])
    assert block.orthonormal_loss() == 0
    with torch.no_grad():
        block.subspace.weight.mul_(2)  # V·Vᵀ − I = 3·I
    assert block.orthonormal_loss().item() == pytest.approx(6)
    assert orthonormal_loss(nn.Sequential(block, block, BSConvU(8, 8))).item() == pytest.approx(0.6)
    both = nn.ModuleList([block, BSConvS(16, 8)])
    alone = both[1].orthonormal_loss().item()
    assert orthonormal_loss(both, 1.0).item() == pytest.approx(6 + alone)
    assert orthonormal_loss(BSConvU(8, 8)) == 0


def test_linear_branches_have_no_bias_of_their_own() -> None:
    assert all(branch[0].bias is None for branch in DDC(8, 8).branches)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupedBottleneck(10, 8, groups=4), "10 channels do not divide into 4 groups"),
        (lambda: GroupedBottleneck(8, 8, 4), "no symmetric padding keeps the size"),
        (lambda: BSConvS(8, 8, p=0), "share of the channels"),
        (lambda: DDC(8, 8, ()), "at least one branch"),
        (lambda: DDC(8, 8, combine="mean"), "'sum' or 'concat'"),  # type: ignore[arg-type]
        (lambda: DDC(8, 8, padding=[1]), "1 paddings for 2 branches"),
        (lambda: SlidingChannelConv2d(10, 8, 4), "10 channels have no windows"),
        (lambda: SlidingChannelConv2d(8, 8, overlap=1), "below 1, not 1"),
        (lambda: SlidingChannelConv2d(8, 2, start=[0]), "1 windows for 2"),
        (lambda: SlidingChannelConv2d(8, 2, start=[0, 8]), "starts outside the 8"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(EdgeconvError, match=message):
        make()


def test_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import edgeconv\n"
        "try: edgeconv.nn\n"
        "except edgeconv.EdgeconvError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert "no torch here" in done.stdout
    assert "pip install 'edgeconv[nn]'" in done.stdout
