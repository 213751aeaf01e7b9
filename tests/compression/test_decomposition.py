"""The decomposition of one kernel, and the choice of ranks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edgeconv.compression.choosing import Options, by_energy, by_ratio
from edgeconv.compression.decomposition import Decomposition, decompose
from edgeconv.errors import EdgeconvError


def restored(part: Decomposition, rank: int) -> np.ndarray:
    """[K, C, T] of the first `rank` filters."""
    return np.einsum("kcr,crt->kct", part.mixing[:, :, :rank], part.filters[:, :rank])


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("shape", [(7, 3, 3, 3), (20, 5, 3, 2), (4, 1, 5, 5), (6, 2, 3)])
def test_all_filters_are_exact(shape: tuple[int, ...]) -> None:
    w = weight(*shape)
    flat = w.reshape(*shape[:2], -1)
    part = decompose(w)
    assert part.energy[0] == 0
    assert part.energy[-1] == pytest.approx(1)
    np.testing.assert_allclose(restored(part, part.filters.shape[1]), flat, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(part.filters, axis=2), 1)


def test_energy_is_what_the_best_approximation_keeps() -> None:
    w = weight(10, 4, 3, 3)
    part = decompose(w)
    for rank in range(1, 9):
        lost = np.square(restored(part, rank) - w.reshape(10, 4, 9)).sum() / np.square(w).sum()
        assert part.energy[rank] == pytest.approx(1 - lost)


def test_data_decide_what_is_kept() -> None:
    """Responses to the data are nearer than those of the plain decomposition; still exact."""
    rng = np.random.default_rng(1)
    w = weight(12, 3, 3, 3)
    data = np.cumsum(rng.standard_normal((3, 9, 400)), axis=1)  # neighbours agree
    covariance = data @ data.transpose(0, 2, 1) / 400
    plain, weighted = decompose(w), decompose(w, covariance)

    def error(part: Decomposition, rank: int) -> float:
        missing = restored(part, rank) - w.reshape(12, 3, 9)
        return float(np.square(np.einsum("kct,ctp->kcp", missing, data)).sum())

    assert error(weighted, 2) < 0.5 * error(plain, 2)
    np.testing.assert_allclose(restored(weighted, 9), w.reshape(12, 3, 9), atol=1e-9)


def test_dead_channels_and_zero_weights() -> None:
    covariance = np.zeros((2, 9, 9))
    covariance[0] = np.eye(9)
    part = decompose(weight(5, 2, 3, 3), covariance)
    assert np.isfinite(part.mixing).all()
    part = decompose(np.zeros((5, 2, 3, 3)))
    assert np.isfinite(restored(part, 5)).all()
    assert part.energy.tolist() == [1] * 6


LAYERS = [
    Options(100, (10, 30, 50, 90), (0.5, 0.8, 0.9, 0.99)),
    Options(400, (100, 200, 300), (0.6, 0.9, 0.95)),
    Options(50, (), ()),
    Options(200, (40, 120), (0.2, 0.3)),
]


def test_by_energy() -> None:
    assert by_energy(LAYERS, 0.8) == [2, 2, 0, 0]
    assert by_energy(LAYERS, 0.1) == [1, 1, 0, 1]
    assert by_energy(LAYERS, 1.0) == [0, 0, 0, 0]


def work(ranks: tuple[int, ...] | list[int]) -> int:
    pairs = zip(LAYERS, ranks, strict=True)
    return sum(layer.macs[r - 1] if r else layer.dense for layer, r in pairs)


def kept(ranks: tuple[int, ...] | list[int]) -> float:
    pairs = zip(LAYERS, ranks, strict=True)
    return float(np.prod([layer.energy[r - 1] if r else 1.0 for layer, r in pairs]))


@pytest.mark.parametrize("ratio", [1.05, 1.2, 1.4, 1.6, 2.0, 3.0, 3.7])
def test_by_ratio_is_the_best_choice(ratio: float) -> None:
    ranks = by_ratio(LAYERS, 750, ratio)
    assert work(ranks) <= 750 / ratio
    every = product(*(range(len(layer.macs) + 1) for layer in LAYERS))
    best = max(kept(r) for r in every if work(r) <= 750 / ratio)
    assert kept(ranks) == pytest.approx(best)


def test_by_ratio_with_a_least_energy() -> None:
    ranks = by_ratio(LAYERS, 750, 1.3, 0.8)
    assert ranks[3] == 0
    assert all(r == 0 or x.energy[r - 1] >= 0.8 for x, r in zip(LAYERS, ranks, strict=True))
    with pytest.raises(EdgeconvError, match=r"keep 0\.8 of the energy .* a ratio of 1\.56"):
        by_ratio(LAYERS, 750, 1.6, 0.8)


def test_out_of_reach() -> None:
    with pytest.raises(EdgeconvError, match=r"ratio of 4 is out of reach: .* a ratio of 3\.75"):
        by_ratio(LAYERS, 750, 4)
