"""Random single convolutions: how they are drawn, and how one is checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st

import edgeconv
from edgeconv.targets import Device
from tests.e2e.models import ModelMaker, assert_close, convolution, expected

TOLERANCE = 1e-5  # of the output's max-norm
MAX_CHANNELS = 70

ACTIVATIONS = ("", "relu", "clip", "clip_below", "leaky_relu", "sigmoid", "silu", "hard_swish")


@dataclass(frozen=True)
class Case:
    """A convolution with what follows it."""

    batch: int
    groups: int
    in_per_group: int
    out_per_group: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    bias: bool
    residual: bool
    activation: str
    threads: int
    seed: int

    @property
    def in_shape(self) -> tuple[int, int, int, int]:
        """NCHW."""
        return (self.batch, self.groups * self.in_per_group, *self.size)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """NCHW."""
        oh, ow = (
            (
                d
                + self.padding[i]
                + self.padding[i + 2]
                - self.dilation[i] * (self.kernel[i] - 1)
                - 1
            )
            // self.stride[i]
            + 1
            for i, d in enumerate(self.size)
        )
        return (self.batch, self.groups * self.out_per_group, oh, ow)

    def model(self, *, integers: bool = False) -> onnx.ModelProto:
        """x, [r] -> y; with `integers`, weights and bias are small whole numbers."""
        maker = ModelMaker(self.seed)
        x = maker.input("x", *self.in_shape)
        y = maker.conv(
            x,
            self.in_shape[1],
            self.out_shape[1],
            self.kernel,
            pads=self.padding,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
        )
        if integers:
            for tensor in maker.weights:
                values = maker.rng.integers(-4, 5, tuple(tensor.dims)).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        if self.residual:
            y = maker.node("Add", y, maker.input("r", *self.out_shape))
        return maker.model(activate(maker, y, self.activation))

    def feeds(self, seed: int, *, integers: bool = False) -> dict[str, np.ndarray]:
        """Random inputs."""
        rng = np.random.default_rng([self.seed, seed])
        shapes = {"x": self.in_shape} | ({"r": self.out_shape} if self.residual else {})
        if integers:
            return {n: rng.integers(-4, 5, s).astype(np.float32) for n, s in shapes.items()}
        return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


def activate(maker: ModelMaker, x: str, activation: str) -> str:
    """x through an activation."""
    if activation == "relu":
        return maker.node("Relu", x)
    if activation == "clip":
        return maker.node("Clip", x, maker.constant(np.float32(0)), maker.constant(np.float32(6)))
    if activation == "clip_below":
        return maker.node("Clip", x, maker.constant(np.float32(-0.5)))
    if activation == "leaky_relu":
        return maker.node("LeakyRelu", x, alpha=0.1)
    if activation == "sigmoid":
        return maker.node("Sigmoid", x)
    if activation == "silu":
        return maker.node("Mul", x, maker.node("Sigmoid", x))
    if activation == "hard_swish":
        return maker.node("HardSwish", x)
    return x


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any legal convolution of the sizes edgeconv promises to test."""
    kind = draw(st.sampled_from(("dense", "dense", "grouped", "grouped", "depthwise")))
    if kind == "dense":
        groups = 1
        cpg, kpg = draw(st.integers(1, MAX_CHANNELS)), draw(st.integers(1, MAX_CHANNELS))
    elif kind == "depthwise":
        groups, cpg = draw(st.integers(1, MAX_CHANNELS)), 1
        kpg = draw(st.integers(1, min(4, MAX_CHANNELS // groups)))
    else:
        groups = draw(st.integers(2, MAX_CHANNELS // 2))
        most = MAX_CHANNELS // groups
        cpg = draw(st.integers(1, most))
        kpg = cpg if draw(st.booleans()) else draw(st.integers(1, most))
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    stride, dilation = draw(two), draw(two)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    top, bottom = (draw(st.integers(0, extents[0] // 2 + 1)) for _ in range(2))
    left, right = (draw(st.integers(0, extents[1] // 2 + 1)) for _ in range(2))
    height = draw(st.integers(max(1, extents[0] - top - bottom), 40))
    width = draw(st.integers(max(1, extents[1] - left - right), 40))
    return Case(
        draw(st.integers(1, 3)),
        groups,
        cpg,
        kpg,
        (height, width),
        kernel,
        stride,
        dilation,
        (top, left, bottom, right),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(ACTIVATIONS)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2**16)),
    )


def check(case: Case, target: str | Device = "host") -> None:
    """Two inputs, one after the other, against ONNX Runtime: the second finds used memory."""
    model = case.model()
    compiled = edgeconv.compile(model, target=target, threads=case.threads)
    for seed in (1, 2):
        feeds = case.feeds(seed)
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE, floor=1)


def check_exactly(case: Case, target: str | Device = "host") -> None:
    """Whole numbers, which float32 adds without error, against float64 NumPy: equal."""
    model = case.model(integers=True)
    compiled = edgeconv.compile(model, target=target, threads=case.threads, numerics="exact")
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    for seed in (1, 2):
        feeds = case.feeds(seed, integers=True)
        wanted = convolution(
            feeds["x"],
            weights[0],
            stride=case.stride,
            padding=case.padding,
            dilation=case.dilation,
            groups=case.groups,
        )
        if case.bias:
            wanted = wanted + weights[1].reshape(1, -1, 1, 1)
        if case.residual:
            wanted = wanted + feeds["r"]
        if case.activation == "relu":
            wanted = np.maximum(wanted, 0)
        (actual,) = compiled.run(feeds).values()
        assert np.array_equal(actual, wanted)
