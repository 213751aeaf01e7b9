"""Concatenations and slices of channels: in place, and right wherever their operands come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import edgeconv
from tests.e2e.models import ModelMaker, assert_close, expected, native

TARGETS = ("host", "x86-avx2", "x86-sse4")


def inception(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Branches with other kernels, a pool among them, then a kernel that needs a halo."""
    x = maker.conv(x, 16, 16, 1)
    pool = maker.node("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    branches = [maker.conv(x, 16, 16, 1), maker.conv(x, 16, 48), maker.conv(x, 16, 32, 5), pool]
    joined = maker.node("Concat", *branches, axis=1)
    return (maker.conv(joined, 112, 24, 7),)


def dense_block(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Every layer reads all before it: concatenations of concatenations."""
    grown, channels = maker.conv(x, 16, 32), 32
    for kernel in (3, 1, 5):
        layer = maker.conv(maker.node("Relu", grown), channels, 16, kernel)
        grown, channels = maker.node("Concat", grown, layer, axis=1), channels + 16
    return (maker.conv(grown, channels, 20),)


def outputs_too(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """An operand and the result are outputs of the network."""
    a, b = maker.conv(x, 16, 32), maker.conv(x, 16, 16)
    joined = maker.node("Concat", a, b, axis=1)
    return (a, joined, maker.conv(joined, 48, 16))


def twice(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """An operand occurs twice, another in two concatenations, and the network's input is one."""
    a, b = maker.conv(x, 16, 16), maker.conv(x, 16, 16, 1)
    first = maker.node("Concat", a, b, a, x, axis=1)
    second = maker.node("Concat", b, a, axis=1)
    return (maker.conv(first, 64, 16), maker.conv(second, 32, 16, 5))


def odd(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Channels that fill no blocks."""
    a, b, c = (maker.conv(x, 16, k) for k in (16, 7, 21))
    last_is_odd = maker.node("Concat", a, b, axis=1)
    return (maker.conv(last_is_odd, 23, 9), maker.node("Concat", b, c, a, axis=1))


def planes(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Row-major operands: resized maps, the network's ends."""
    halves = [maker.node("MaxPool", x, kernel_shape=[k, k], pads=[k // 2] * 4) for k in (1, 3)]
    return (maker.node("Concat", *[maker.node("Sigmoid", h) for h in halves], x, axis=1),)


def cross_stage(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """YOLOv8's C2f: both halves of a convolution, and all that is made of the second."""
    x = maker.node("Relu", maker.conv(x, 16, 64, 1))
    first, second = (slice_of(maker, x, begin, begin + 32) for begin in (0, 32))
    parts = [first, second]
    for kernel in (3, 5):
        parts.append(maker.node("Add", parts[-1], maker.conv(parts[-1], 32, 32, kernel)))
    return (maker.conv(maker.node("Concat", *parts, axis=1), 128, 24, 1),)


def slices(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Of whole blocks and others, of slices, of the network's input and of a concatenation."""
    wide = maker.conv(x, 16, 72)
    inner = slice_of(maker, wide, 16, 64)
    found = [
        maker.conv(slice_of(maker, inner, 16, 48), 32, 8),
        maker.conv(slice_of(maker, wide, 8, 40), 32, 8),
        maker.conv(slice_of(maker, wide, 64, 72), 8, 8),
        maker.conv(slice_of(maker, x, 0, 16), 16, 8, 5),
    ]
    joined = maker.node("Concat", *[maker.conv(x, 16, 32) for _ in range(2)], axis=1)
    found += [maker.conv(slice_of(maker, joined, 16, 48), 32, 8), slice_of(maker, wide, 32, 48)]
    return tuple(found)


def slice_of(maker: ModelMaker, x: str, begin: int, end: int) -> str:
    """Some channels."""
    ends = [maker.constant(np.array([n], np.int64)) for n in (begin, end, 1)]
    return maker.node("Slice", x, *ends)


BLOCKS = (cross_stage, slices, inception, dense_block, outputs_too, twice, odd, planes)


@pytest.mark.parametrize(("target", "batch"), [("host", 2), *((t, 1) for t in TARGETS)])
@pytest.mark.parametrize("block", BLOCKS)
def test_equal_to_onnx_runtime(
    block: Callable[[ModelMaker, str], tuple[str, ...]], batch: int, target: str
) -> None:
    native(target)
    maker = ModelMaker()
    x = maker.input("x", batch, 16, 9, 13)
    model = maker.model(*block(maker, x))
    feeds = {"x": np.random.default_rng(1).standard_normal((batch, 16, 9, 13), np.float32)}
    compiled = edgeconv.compile(model, target=target, threads=1)
    for _ in range(2):  # what a run leaves behind must not show in the next
        assert_close(compiled.run(feeds), expected(model, feeds), 1e-5)


@pytest.mark.parametrize("block", [cross_stage, inception, dense_block])
def test_no_copies(block: Callable[[ModelMaker, str], tuple[str, ...]]) -> None:
    maker = ModelMaker()
    x = maker.input("x", 1, 16, 9, 13)
    model = maker.model(*block(maker, x))
    layers = edgeconv.explain(model, target="x86-avx512")
    assert not {"concat", "slice"} & {layer.op for layer in layers}
    # the network's input and output change their layout
    assert sum(layer.op == "copy" for layer in layers) <= 2
