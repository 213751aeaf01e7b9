"""`SlidingChannelConv2d` against its definition."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from edgeconv.nn import SlidingChannelConv2d, window_starts
from tests.nn.exporting import EXPORTERS, check, export

CASES = {  # (C, K, cg, co): distinct windows wanted, what they exercise
    (16, 32, 2, 0.5): 4,  # step 4, P = 4, one window wraps
    (16, 32, 4, 0.5): 8,
    (12, 20, 3, 0.25): 4,  # step 3
    (16, 24, 2, 0.33): 4,  # step 5.36: 0, 5, 10, and 11 from the 15th output on
    (16, 6, 2, 0.5): 4,  # K is no multiple of P
    (15, 30, 3, 0.1): 10,  # step 4.5: ten windows, twice and a half around
    (8, 8, 1, 0.5): 2,  # the window is all channels, turned around
    (8, 12, 4, 0.0): 4,  # a grouped 1×1, shuffled
    (16, 64, 2, 1 / 3): 3,  # step 16/3: cycles of three, 64 is no multiple
    (8, 5, 1, 0.0): 1,  # the dense 1×1
}


def by_definition(layer: SlidingChannelConv2d, x: np.ndarray) -> np.ndarray:
    """Σ_{j<u} W[k, j] · x[(start + j) mod C] in float64, from the formula and not the table."""
    weight = layer.weight.detach().numpy().astype(np.float64)[:, :, 0, 0]
    channels, out = x.shape[1], []
    for row, start in zip(weight, layer.start.tolist(), strict=True):
        out.append(sum(w * x[:, (start + j) % channels] for j, w in enumerate(row)))
    y = np.stack(out, 1)
    return y if layer.bias is None else y + layer.bias.detach().numpy()[None, :, None, None]


@pytest.mark.parametrize("case", CASES)
def test_by_definition(case: tuple[int, int, int, float]) -> None:
    channels, outputs, groups, overlap = case
    torch.manual_seed(0)
    layer = SlidingChannelConv2d(channels, outputs, groups, overlap)
    assert len(set(layer.start.tolist())) == CASES[case]
    x = torch.randn(2, channels, 3, 4)
    found = layer(x).detach().numpy()
    np.testing.assert_allclose(found, by_definition(layer, x.numpy()), rtol=1e-5, atol=1e-5)
    dense = torch.nn.functional.conv2d(x, layer.dense_weight(), layer.bias).detach().numpy()
    np.testing.assert_allclose(found, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("case", [c for c in CASES if c[0] != 8])
def test_exports_and_compiles(case: tuple[int, int, int, float], exporter: str) -> None:
    torch.manual_seed(0)
    check(SlidingChannelConv2d(*case, stride=(1, 2)), torch.randn(1, case[0], 5, 6), exporter)


def test_the_exported_form() -> None:
    """Windows 0, 4, 8 are slices, 12 wraps; four groups; outputs shuffled back.

    This exporter merges the Concat of the wrapped window into the one of all windows.
    """
    model = export(SlidingChannelConv2d(16, 32, 2, 0.5), torch.randn(1, 16, 5, 6))
    assert [n.op_type for n in model.graph.node if n.op_type not in ("Constant", "Identity")] == [
        *["Slice"] * 5,
        *["Concat", "Conv", "Reshape", "Transpose", "Reshape"],
    ]
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    assert next(a.i for a in conv.attribute if a.name == "group") == 4


@pytest.mark.parametrize("overlap", [0.9, 0.3, 0.7, Fraction(1, 3), 1 / 3])
def test_overlaps_are_fractions(overlap: float | Fraction) -> None:
    exact = Fraction(overlap).limit_denominator(100)
    wanted = tuple(math.floor(k * (1 - exact) * 30) % 60 for k in range(60))
    assert window_starts(60, 60, 2, overlap) == wanted


def test_another_table() -> None:
    torch.manual_seed(0)
    layer = SlidingChannelConv2d(6, 4, 2, start=[5, 0, 5, 3])
    x = torch.randn(1, 6, 2, 2)
    np.testing.assert_allclose(
        layer(x).detach().numpy(), by_definition(layer, x.numpy()), rtol=1e-5, atol=1e-5
    )


def test_the_table_is_saved_with_the_weights() -> None:
    saved = SlidingChannelConv2d(6, 4, 2, start=[5, 0, 5, 3])
    loaded = SlidingChannelConv2d(6, 4, 2, 0.5)
    x = torch.randn(1, 6, 2, 2)
    assert not torch.equal(saved(x), loaded(x))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(saved(x), loaded(x))
