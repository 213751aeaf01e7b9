"""Calibration: filters that suit the data, and 1×1 weights fitted to the original outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from edgeconv.compression.decomposition import Decomposition
from edgeconv.compression.dense_convs import DenseConv
from edgeconv.compression.patches import as_matrix, as_output, patches
from edgeconv.compression.rewriting import Factors
from edgeconv.compression.segments import Segments
from edgeconv.compression.values import Arrays, Facts, Shapes, compiled

_RIDGE = 1e-4  # of the mean squared activation: what few samples don't show stays as it was


def covariances(
    model: onnx.ModelProto,
    shapes: Shapes,
    convs: Sequence[DenseConv],
    facts: Facts,
    samples: Sequence[Arrays],
) -> dict[DenseConv, np.ndarray]:
    """Mean of patch·patchᵀ of each channel, [C, T, T], over all samples."""
    given = {v.name for v in facts.inputs}
    taps = dict.fromkeys(c.input for c in convs if c.input not in given)
    network = compiled(model, [facts.values[name] for name in taps], shapes)
    sums = {c: np.zeros((c.weight.shape[1], c.taps, c.taps)) for c in convs}
    for sample in samples:
        values = {**network.run(sample), **sample}
        for conv in convs:
            read = patches(conv, values[conv.input].astype(np.float32, copy=False))
            sums[conv] += (read @ read.transpose(0, 2, 1)) / read.shape[2]
    return {c: total / len(samples) for c, total in sums.items()}


def fit(
    model: onnx.ModelProto,
    facts: Facts,
    chosen: Mapping[DenseConv, tuple[Decomposition, int]],
    samples: Sequence[Arrays],
    report: Callable[[str], None],
) -> dict[DenseConv, Factors]:
    """Factors of each layer, in the network's order.

    The original network and the compressed one run side by side. The 1×1 of a layer, and its
    bias, are the least squares that bring the compressed network back to the original's output,
    from the input that the layers compressed before it leave.
    """
    segments = Segments(model, facts, [conv.output for conv in chosen])
    original = [dict(sample) for sample in samples]
    compressed = [dict(sample) for sample in samples]
    both = (original, compressed)
    factors = {}
    for number, (conv, (decomposition, rank)) in enumerate(chosen.items(), 1):
        report(f"fitting layer {number} of {len(chosen)}")
        segments.advance(conv.input, both)
        for sample in original:
            sample[conv.output] = _dense(conv, sample[conv.input])
        factors[conv] = _fit_layer(conv, decomposition, rank, original, compressed)
        for sample in compressed:
            sample[conv.output] = _apply(conv, factors[conv], sample[conv.input])
        segments.supply(conv.output)
        segments.forget(both)
    return factors


def _fit_layer(
    conv: DenseConv,
    decomposition: Decomposition,
    rank: int,
    original: Sequence[Arrays],
    compressed: Sequence[Arrays],
) -> Factors:
    """Least squares, drawn towards the decomposition's own 1×1."""
    outputs, channels = conv.weight.shape[:2]
    filters = decomposition.filters[:, :rank]
    size = channels * rank
    start = np.zeros((outputs, size + 1))
    start[:, :size] = decomposition.mixing[:, :, :rank].reshape(outputs, size)
    if conv.bias is not None:
        start[:, size] = conv.bias
    gram = np.zeros((size + 1, size + 1))
    missing = np.zeros((outputs, size + 1))
    count = 0
    for wanted, given in zip(original, compressed, strict=True):
        middle = _depthwise(conv, filters, given[conv.input]).astype(np.float64)
        middle = np.concatenate([middle, np.ones((1, middle.shape[1]))])
        gram += middle @ middle.T
        missing += (as_matrix(wanted[conv.output]) - start @ middle) @ middle.T
        count += middle.shape[1]
    ridge = _RIDGE * max(float(np.trace(gram[:size, :size])) / size, 1e-30 * count)
    regular = gram + ridge * np.eye(size + 1)
    solution = start + np.linalg.solve(regular, missing.T).T
    mixing = solution[:, :size].reshape(outputs, channels, rank)
    return Factors(filters, mixing, solution[:, size])


def _depthwise(conv: DenseConv, filters: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[C·r, pixels] of filters [C, r, T]."""
    kind = np.float64 if x.dtype == np.float64 else np.float32
    result = filters.astype(kind) @ patches(conv, x.astype(kind, copy=False))
    return result.reshape(-1, result.shape[2])


def _apply(conv: DenseConv, factors: Factors, x: np.ndarray) -> np.ndarray:
    """The compressed layer's output."""
    middle = _depthwise(conv, factors.filters, x)
    y = factors.mixing.reshape(len(factors.mixing), -1).astype(middle.dtype) @ middle
    if factors.bias is not None:
        y += factors.bias[:, None].astype(middle.dtype)
    return as_output(conv, y).astype(x.dtype)


def _dense(conv: DenseConv, x: np.ndarray) -> np.ndarray:
    """The original layer's output."""
    kind = np.float64 if x.dtype == np.float64 else np.float32
    read = patches(conv, x.astype(kind, copy=False))
    weight = conv.weight.astype(kind).reshape(len(conv.weight), -1)
    y = weight @ read.reshape(-1, read.shape[2])
    if conv.bias is not None:
        y += conv.bias[:, None].astype(kind)
    return as_output(conv, y).astype(x.dtype)
