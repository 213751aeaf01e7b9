"""Softmax along rows: against float64 NumPy, rows of every length, extreme values."""

from __future__ import annotations

import numpy as np
import pytest

import edgeconv
from tests.e2e.models import ModelMaker

SHAPES = [(5, 3), (4, 1), (1, 10), (2, 3, 197), (6, 49), (3, 64), (40, 1000)]


def wanted(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def run(x: np.ndarray, target: str, threads: int = 1) -> np.ndarray:
    maker = ModelMaker(0)
    model = maker.model(maker.node("Softmax", maker.input("x", *x.shape), axis=-1))
    (layer,) = edgeconv.explain(model, target=target, threads=threads)
    assert layer.schedule == "softmax"
    (found,) = edgeconv.compile(model, target=target, threads=threads).run({"x": x}).values()
    return found


@pytest.mark.parametrize("target", ["host", "x86-avx2", "x86-sse4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape: tuple[int, ...], target: str) -> None:
    x = 5 * np.random.default_rng(0).standard_normal(shape, np.float32)
    for threads in (1, 2):
        np.testing.assert_allclose(run(x, target, threads), wanted(x), rtol=1e-5, atol=1e-7)


def test_extreme_values() -> None:
    """Large numbers don't overflow; minus infinity, as masks have it, has no share."""
    x = np.zeros((4, 37), np.float32)
    x[0, 5] = 1e30
    x[1] = -1e30
    x[2, ::2] = -np.inf
    x[3] = 80 * np.arange(37)
    np.testing.assert_allclose(run(x, "host"), wanted(x), rtol=1e-5, atol=1e-37)
