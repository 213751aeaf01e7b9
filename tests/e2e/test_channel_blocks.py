"""Operators with kernels of their own on channel blocks: moved channels, pools, resizing, views."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import edgeconv
from tests.e2e.models import ModelMaker, assert_close, expected, native

TARGETS = ("host", "x86-avx2", "x86-sse4")


def between_convolutions(
    op: str, size: tuple[int, int], channels: int = 20, batch: int = 1, **attrs: Any
) -> onnx.ModelProto:
    """An operator on what a convolution makes, read by another."""
    maker = ModelMaker()
    x = maker.conv(maker.input("x", batch, 3, *size), 3, channels)
    return maker.model(maker.conv(maker.node(op, x, **attrs), channels, 6, 1))


def check(model: onnx.ModelProto, target: str, schedule: str | None = None) -> None:
    """Equal to ONNX Runtime, twice, with that schedule for some layer."""
    native(target)
    compiled = edgeconv.compile(model, target=target, threads=1)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    for _ in range(2):
        assert_close(compiled.run(feeds), expected(model, feeds), 1e-5)
    if schedule is not None:
        layers = edgeconv.explain(model, target=target, threads=1)
        assert schedule in [layer.schedule for layer in layers]


POOLS: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((112, 9), dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    ((13, 17), dict(kernel_shape=[3, 2], strides=[1, 2], pads=[2, 0, 0, 1])),
    ((9, 11), dict(kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2])),
    ((12, 10), dict(kernel_shape=[2, 2], strides=[2, 2])),
    ((7, 8), dict(kernel_shape=[3, 3], strides=[3, 3], ceil_mode=1)),
    ((4, 3), dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])),
]


@pytest.mark.parametrize(("size", "attrs"), POOLS)
@pytest.mark.parametrize("target", TARGETS)
def test_max_pools(size: tuple[int, int], attrs: dict[str, Any], target: str) -> None:
    check(between_convolutions("MaxPool", size, **attrs), target, "pooling")


def test_dilated_max_pool() -> None:
    window = dict(kernel_shape=[3, 3], dilations=[2, 3], pads=[2, 2, 1, 2])
    check(between_convolutions("MaxPool", (11, 14), **window), "host", "pooling")


@pytest.mark.parametrize("included", [0, 1])
@pytest.mark.parametrize(("size", "attrs"), POOLS[:4] + POOLS[5:])
def test_average_pools(size: tuple[int, int], attrs: dict[str, Any], included: int) -> None:
    model = between_convolutions("AveragePool", size, count_include_pad=included, **attrs)
    check(model, "host", "pooling")


@pytest.mark.parametrize("channels", [2, 5, 16, 33, 60])
def test_pools_of_any_number_of_channels(channels: int) -> None:
    window = dict(kernel_shape=[3, 3], strides=[2, 1], pads=[0, 1, 1, 1])
    check(between_convolutions("MaxPool", (9, 10), channels, batch=2, **window), "host")


def test_nothing_but_padding_is_below_every_number() -> None:
    """Large negative numbers at the border: no zero may win against them."""
    maker = ModelMaker()
    x = maker.conv(maker.input("x", 1, 3, 6, 6), 3, 16)
    low = maker.node("Add", x, maker.constant(np.full((1,), -100, np.float32)))
    pool = maker.node("MaxPool", low, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    check(maker.model(maker.conv(pool, 16, 6, 1)), "host", "pooling")


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool_of_the_whole_map(op: str) -> None:
    model = between_convolutions(op, (6, 9), kernel_shape=[6, 9])
    check(model, "host")
    assert "pooling" not in [layer.schedule for layer in edgeconv.explain(model)]


def split(maker: ModelMaker, x: str, sizes: Sequence[int]) -> list[str]:
    """Parts of the channels."""
    begins = np.cumsum([0, *sizes])
    return [
        maker.node("Slice", x, *(maker.constant(np.array([n], np.int64)) for n in (a, b, 1)))
        for a, b in itertools.pairwise(begins)
    ]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [6, 13, 26])
def test_parts_that_fill_no_blocks(width: int, target: str) -> None:
    """Res2Net's block: each part is added to the one before, then all are joined."""
    maker = ModelMaker()
    x = maker.conv(maker.input("x", 1, 3, 7, 9), 3, 4 * width)
    first, *others = split(maker, x, [width] * 4)
    joined, last = [first], None
    for part in others:
        last = part if last is None else maker.node("Add", part, last)
        last = maker.node("Relu", maker.conv(last, width, width))
        joined.append(last)
    result = maker.conv(maker.node("Concat", *joined, axis=1), 4 * width, 8, 1)
    check(maker.model(result), target, "channel_moves")


@pytest.mark.parametrize("target", TARGETS)
def test_shuffled_for_something_else(target: str) -> None:
    """A pool reads the shuffle, and the caller what was shuffled: no convolution can take it."""
    maker = ModelMaker()
    x = maker.conv(maker.input("x", 1, 3, 6, 5), 3, 36)
    shapes = [maker.constant(np.array(s, np.int64)) for s in ((1, 3, 12, 6, 5), (1, 36, 6, 5))]
    y = maker.node("Transpose", maker.node("Reshape", x, shapes[0]), perm=[0, 2, 1, 3, 4])
    y = maker.node("Reshape", y, shapes[1])
    pool = maker.node("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    result = maker.node("Add", maker.conv(pool, 36, 36, 1), y)
    check(maker.model(maker.conv(result, 36, 4, 1), x), target, "channel_moves")


def test_few_channels_and_many() -> None:
    """Blocks of other widths in one concatenation."""
    maker = ModelMaker()
    x = maker.input("x", 1, 3, 8, 7)
    parts = [maker.conv(x, 3, k) for k in (3, 8, 40, 5)]
    check(maker.model(maker.conv(maker.node("Concat", *parts, axis=1), 56, 7)), "host")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("scales", [(2, 2), (1.5, 3), (0.5, 2), (0.6, 0.7)])
def test_resized(mode: str, scales: tuple[float, float], target: str) -> None:
    maker = ModelMaker()
    x = maker.conv(maker.input("x", 1, 3, 10, 12), 3, 21)
    factors = maker.constant(np.array([1, 1, *scales], np.float32))
    y = maker.node("Resize", x, "", factors, mode=mode)
    check(maker.model(maker.conv(y, 21, 5, 3), y), target)


@pytest.mark.parametrize("channels", [18, 255])
def test_detection_head(channels: int) -> None:
    """Channels seen as anchors and their numbers."""
    maker = ModelMaker()
    x = maker.conv(maker.input("x", 1, 3, 5, 7), 3, channels, 1)
    shape = maker.constant(np.array([1, 3, channels // 3, 5, 7], np.int64))
    y = maker.node("Transpose", maker.node("Reshape", x, shape), perm=[0, 1, 3, 4, 2])
    check(maker.model(maker.node("Sigmoid", y)), "host")


@pytest.mark.parametrize("channels", [2, 6, 16, 21, 24, 48])
@pytest.mark.parametrize("shared", [False, True])
def test_channels_last(channels: int, shared: bool) -> None:
    """SSD's heads: channels side by side, then flattened; also of a map that convolutions read."""
    maker = ModelMaker()
    x = maker.conv(maker.input("x", 1, 3, 9, 7), 3, channels)
    y = maker.node("Transpose", x, perm=[0, 2, 3, 1])
    flat = maker.node("Reshape", y, maker.constant(np.array([1, -1, 1], np.int64)))
    others = [maker.conv(x, channels, 5), maker.node("Relu", x)] if shared else []
    model = maker.model(maker.node("Sigmoid", flat), *others)
    check(model, "host")
    if channels % 8 == 0:  # others may be computed along rows
        layers = edgeconv.explain(model, target="x86-avx512")
        assert "transpose" not in [layer.op for layer in layers]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [9, 10, 31, 32, 33, 40])
@pytest.mark.parametrize("begin", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_every_second_column(begin: tuple[int, int], width: int, target: str) -> None:
    """Space to depth, as YOLOv5's Focus exports it; the last column may be the buffer's last."""
    maker = ModelMaker()
    x = maker.input("x", 1, 3, 5, width)
    ends = [2**31 - 1] * 2
    numbers = [maker.constant(np.array(v, np.int64)) for v in (begin, ends, [2, 3], [2, 2])]
    y = maker.node("Slice", x, *numbers)
    check(maker.model(maker.node("Relu", y), y), target, "pixel_skips")
