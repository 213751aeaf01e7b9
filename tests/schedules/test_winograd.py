"""Winograd convolution: its matrices, its error, what it refuses, and how to switch it off."""

from __future__ import annotations

import numpy as np
import pytest

import edgeconv
from edgeconv import strategy
from edgeconv.errors import EdgeconvError
from edgeconv.layout import Layout
from edgeconv.schedules import family, winograd
from edgeconv.targets import load
from edgeconv.workload import Conv2d, ConvTask
from tests.e2e.models import ModelMaker, assert_close, expected

SAME = (1, 1, 1, 1)


def task(conv: Conv2d, block: int = 16) -> ConvTask:
    return ConvTask(conv, Layout(block, conv.padding), Layout(block))


def test_matrices_compute_a_convolution() -> None:
    """One tile, in float64, to the last digits."""
    a, g, b = winograd.matrices()
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    tile = a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T
    wanted = [[(d[i : i + 3, j : j + 3] * w).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(tile, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Conv2d(1, 64, 9, 9, 64, (5, 5)), "3x3"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), stride=(2, 2)), "stride"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), dilation=(2, 2)), "dilation"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), groups=2), "group"),
        (Conv2d(1, 64, 5, 9, 64, (3, 3)), "smaller"),
        (Conv2d(1, 40, 9, 9, 64, (3, 3)), "40 channels"),
        (Conv2d(1, 64, 9, 9, 40, (3, 3)), "40 channels"),
    ],
)
def test_refuses_what_it_cannot_do(conv: Conv2d, reason: str) -> None:
    mismatch = winograd.supports(task(conv), load("x86-avx512"))
    assert mismatch is not None
    assert reason in mismatch.reason


def test_chosen_for_wide_layers_unless_numerics_are_exact() -> None:
    device, wide = load("x86-avx512"), task(Conv2d(1, 64, 56, 56, 64, (3, 3), padding=SAME))
    assert strategy.choose(wide, device).family is family("winograd")
    exact = strategy.choose(wide, device, exact=True)
    assert exact.family is family("grouped_spatial_pack")
    assert ("winograd", "numerics are to be exact") in exact.refused


def test_not_chosen_where_its_weights_would_be_the_bottleneck() -> None:
    device = load("x86-avx512")
    late = task(Conv2d(1, 512, 7, 7, 512, (3, 3), padding=SAME))
    assert strategy.choose(late, device).family is family("grouped_spatial_pack")


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_error_stays_near_the_direct_sum(channels: int) -> None:
    """Random data: at most 5e-6 of the largest output, and through the public switch."""
    maker = ModelMaker(channels)
    y = maker.conv(maker.input("x", 1, channels, 14, 18), channels, 64, (3, 3), pads=SAME)
    model = maker.model(y)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, channels, 14, 18), np.float32)}
    for numerics in ("fast", "exact"):
        compiled = edgeconv.compile(model, threads=1, numerics=numerics)  # type: ignore[arg-type]
        assert_close(compiled.run(feeds), expected(model, feeds), 5e-6)


def test_unknown_numerics() -> None:
    maker = ModelMaker(0)
    model = maker.model(maker.conv(maker.input("x", 1, 4, 5, 5), 4, 4, (3, 3)))
    with pytest.raises(EdgeconvError, match="'fast' or 'exact'"):
        edgeconv.compile(model, numerics="sloppy")  # type: ignore[arg-type]
