"""Networks whose grouped convolutions may run along rows: right whether the layouts ask for it or
not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import edgeconv
from edgeconv.graph import grouped_layout
from tests.e2e.models import ModelMaker, assert_close, expected, native

WAYS = [
    ("host", True),
    ("host", False),
    ("x86-avx2", True),
    pytest.param("x86-avx2", False, marks=pytest.mark.slow),
    pytest.param("x86-sse4", True, marks=pytest.mark.slow),
    pytest.param("x86-sse4", False, marks=pytest.mark.slow),
]


def chain(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Grouped convolutions with everything pixelwise between them."""
    a = maker.node("Relu", maker.conv(x, 20, 20, groups=4))
    b = maker.node("Sigmoid", maker.conv(a, 20, 40, 5, groups=4, stride=2))
    c = maker.node("MaxPool", b, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    d = maker.node("Add", maker.conv(c, 40, 40, groups=8), maker.node("Mul", b, c))
    return (maker.conv(d, 40, 20, groups=4, dilation=2, pads=[2, 2, 2, 2]),)


def residuals(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Sums that are fused; values with and without a halo."""
    a = maker.conv(x, 20, 20, groups=4)
    b = maker.conv(a, 20, 20, groups=4)
    c = maker.node("Relu", maker.node("Add", maker.conv(b, 20, 20, groups=4), a))
    return (maker.conv(c, 20, 20, (3, 1), groups=5, pads=[1, 0, 1, 0]),)


def bottlenecks(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Pointwise, grouped, pointwise; channels shuffled between."""
    a = maker.node("Relu", maker.conv(x, 20, 24, 1))
    b = maker.conv(a, 24, 24, groups=4)
    shape = [maker.constant(np.array(s)) for s in ((1, 4, 6, 13, 21), (1, 24, 13, 21))]
    split = maker.node("Transpose", maker.node("Reshape", b, shape[0]), perm=[0, 2, 1, 3, 4])
    shuffled = maker.node("Reshape", split, shape[1])
    c = maker.conv(maker.conv(shuffled, 24, 24, groups=4), 24, 20, 1)
    d = maker.conv(maker.node("Add", c, x), 20, 36, 1, stride=2, pads=[0, 0, 0, 0])
    return (maker.conv(d, 36, 36, groups=6),)


def ends(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Values that are outputs and read again, reshaped, averaged, and by kernels of stride 3."""
    a = maker.conv(x, 20, 30, groups=5)
    b = maker.conv(a, 30, 30, groups=5)
    flat = maker.node("Flatten", maker.node("GlobalAveragePool", b))
    strided = maker.conv(b, 30, 30, groups=5, stride=3)
    joined = maker.node("Concat", maker.conv(b, 30, 16), a, axis=1)
    return (a, flat, strided, maker.conv(joined, 46, 20, groups=2))


def others(maker: ModelMaker, x: str) -> tuple[str, ...]:
    """Dense, depthwise and transposed convolutions beside grouped ones."""
    a = maker.conv(maker.conv(x, 20, 30), 30, 30, groups=6)
    b = maker.conv(maker.conv(a, 30, 30, groups=30), 30, 18, groups=6)
    weight = maker.constant(maker.rng.standard_normal((18, 6, 3, 3), np.float32) / 10)
    up = maker.node("ConvTranspose", b, weight, group=3, strides=[2, 2], pads=[1, 1, 1, 1])
    return (maker.conv(up, 18, 12, groups=3),)


@pytest.mark.parametrize(("target", "forced"), WAYS)
@pytest.mark.parametrize("make", [chain, residuals, bottlenecks, ends, others])
def test_right(
    make: Callable[[ModelMaker, str], tuple[str, ...]],
    target: str,
    forced: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`forced`: every image that may be row-major is, whatever the estimates say."""
    if forced:
        monkeypatch.setattr(grouped_layout, "GAIN", float("inf"))
    maker = ModelMaker()
    x = maker.input("x", 1, 20, 13, 21)
    model = maker.model(*make(maker, x))
    feeds = {"x": np.random.default_rng(3).standard_normal((1, 20, 13, 21)).astype(np.float32)}
    compiled = edgeconv.compile(model, native(target), threads=1)
    assert_close(compiled.run(feeds), expected(model, feeds), 3e-5)
    if forced:
        schedules = [layer.schedule for layer in edgeconv.explain(model, target, threads=1)]
        assert "grouped_rows" in schedules
