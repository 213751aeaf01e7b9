"""Random transposed convolutions of one to three axes: how they are drawn and checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st

import edgeconv
from edgeconv.targets import Device
from tests.e2e.convolutions import ACTIVATIONS, TOLERANCE, activate
from tests.e2e.models import ModelMaker, assert_close, expected

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A transposed convolution with what follows it; every tuple has a number for each axis."""

    batch: int
    groups: int
    in_per_group: int
    out_per_group: int
    size: Ints
    kernel: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    extra: Ints  # output_padding
    shape: bool  # written as output_shape instead of pads
    scale: bool  # batch norm behind
    residual: bool
    bias: bool
    activation: str
    threads: int
    seed: int

    @property
    def in_shape(self) -> Ints:
        """[N, C, …]."""
        return (self.batch, self.groups * self.in_per_group, *self.size)

    @property
    def out_shape(self) -> Ints:
        """[N, K, …]."""
        sizes = (
            s * (d - 1) + e + gap * (k - 1) + 1 - b - a
            for d, k, s, gap, b, a, e in zip(
                self.size,
                self.kernel,
                self.stride,
                self.dilation,
                self.before,
                self.after,
                self.extra,
                strict=True,
            )
        )
        return (self.batch, self.groups * self.out_per_group, *sizes)

    def model(self) -> onnx.ModelProto:
        """x, [r] -> y."""
        maker = ModelMaker(self.seed)
        x, channels = maker.input("x", *self.in_shape), self.out_shape[1]
        fan = self.in_per_group * np.prod(self.kernel) / np.prod(self.stride)
        shape = (self.in_shape[1], self.out_per_group, *self.kernel)
        weight = maker.rng.standard_normal(shape, np.float32) / np.float32(max(1, fan) ** 0.5)
        operands = [x, maker.constant(weight)]
        if self.bias:
            operands.append(maker.constant(maker.rng.standard_normal(channels, np.float32)))
        place = (
            {"output_shape": self.out_shape[2:]}
            if self.shape
            else {"pads": (*self.before, *self.after)}
        )
        y = maker.node(
            "ConvTranspose",
            *operands,
            strides=self.stride,
            dilations=self.dilation,
            output_padding=self.extra,
            group=self.groups,
            **place,
        )
        if self.scale:
            numbers = [maker.rng.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(4)]
            y = maker.node("BatchNormalization", y, *map(maker.constant, numbers))
        if self.residual:
            y = maker.node("Add", y, maker.input("r", *self.out_shape))
        return maker.model(activate(maker, y, self.activation))

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        """Random inputs."""
        rng = np.random.default_rng([self.seed, seed])
        shapes = {"x": self.in_shape} | ({"r": self.out_shape} if self.residual else {})
        return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


@st.composite
def cases(draw: st.DrawFn, ranks: Ints = (1, 2, 2, 2), most_channels: int = 40) -> Case:
    """Any legal transposed convolution of small size."""
    rank = draw(st.sampled_from(ranks))

    def each(low: int, high: int) -> Ints:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.sampled_from((1, 1, 1, 2, 3, 8, most_channels)))
    most = most_channels // groups
    size, kernel = each(1, 9), each(1, 7)
    stride = each(1, 3) if draw(st.integers(0, 4)) else each(1, 6)
    dilation = each(1, 3)
    reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    before = tuple(draw(st.integers(0, r)) for r in reach)
    after = tuple(draw(st.integers(0, r)) for r in reach)
    extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
    case = Case(
        draw(st.integers(1, 2)),
        groups,
        draw(st.integers(1, most)),
        draw(st.integers(1, most)),
        size,
        kernel,
        stride,
        dilation,
        before,
        after,
        extra,
        draw(st.booleans()) and draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()) and draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(ACTIVATIONS)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2**16)),
    )
    assume(min(case.out_shape[2:]) >= 1)
    # onnx's shape inference gives up where output_shape is less than the input's
    assume(not case.shape or all(o >= d for o, d in zip(case.out_shape[2:], size, strict=True)))
    return case


def check(case: Case, target: str | Device = "host") -> None:
    """Two inputs, one after the other, against ONNX Runtime: the second finds used memory."""
    model = case.model()
    compiled = edgeconv.compile(model, target=target, threads=case.threads)
    for seed in (1, 2):
        feeds = case.feeds(seed)
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE, floor=1)
