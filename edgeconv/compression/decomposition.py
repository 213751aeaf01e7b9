"""A dense kernel as a depthwise one with r filters a channel and a 1×1.

He et al., "Depth-wise Decomposition for Accelerating Separable Convolutions in Efficient
Convolutional Neural Networks", 2019. For each input channel c the K×T matrix W[:, c, :] (T = R·S)
is U·S·Vᵀ: rows of Vᵀ are depthwise filters, U·S columns of the 1×1. With covariances Q_c of the
channel's T×T patches the response W_c·Q_c^½ is decomposed instead (the generalised SVD).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RIDGE = 1e-3  # of the mean eigenvalue: directions the samples don't show still count a little


@dataclass(frozen=True)
class Decomposition:
    """All ranks of one layer, in float64.

    Attributes:
        filters: [C, full rank, T], the most important first, of unit length.
        mixing: [K, C, full rank].
        energy: [full rank + 1], the share of the squared norm (of the weights, or of the
            responses) that the first r filters of each channel keep.
    """

    filters: np.ndarray
    mixing: np.ndarray
    energy: np.ndarray


def decompose(weight: np.ndarray, covariance: np.ndarray | None = None) -> Decomposition:
    """Decompose weights [K, C, *kernel]; `covariance` [C, T, T] weights them by the data."""
    outputs, channels = weight.shape[:2]
    matrices = weight.astype(np.float64).reshape(outputs, channels, -1).transpose(1, 0, 2)
    root = inverse = None
    if covariance is not None:
        root, inverse = _roots(covariance)
        matrices = matrices @ root
    u, s, vt = np.linalg.svd(matrices, full_matrices=False)  # [C, K, r], [C, r], [C, r, T]
    filters = vt if inverse is None else vt @ inverse
    length = np.linalg.norm(filters, axis=2, keepdims=True)
    filters = filters / length
    mixing = u * (s[:, None, :] * length.transpose(0, 2, 1))
    kept = np.concatenate([[0.0], np.cumsum((s**2).sum(0))])
    energy = kept / kept[-1] if kept[-1] > 0 else np.ones_like(kept)
    return Decomposition(filters, mixing.transpose(1, 0, 2), energy)


def _roots(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q^½ and Q^−½ of each matrix, which need not be regular."""
    values, vectors = np.linalg.eigh(covariance)
    mean = values.mean(1, keepdims=True)
    floor = np.maximum(_RIDGE * mean, 1e-12 * max(float(mean.max()), 1e-30))
    roots = np.sqrt(np.maximum(values, 0) + floor)
    root = (vectors * roots[:, None, :]) @ vectors.transpose(0, 2, 1)
    inverse = (vectors / roots[:, None, :]) @ vectors.transpose(0, 2, 1)
    return root, inverse
