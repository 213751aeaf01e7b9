"""Random convolutions of volumes: how they are drawn, and how one is checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st

import edgeconv
from edgeconv.targets import Device
from tests.e2e.convolutions import ACTIVATIONS, TOLERANCE, activate
from tests.e2e.models import ModelMaker, assert_close, expected, he_normal

Three = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """One or two 3-D convolutions in a row, the second with kernel 3, and what follows them."""

    batch: int
    groups: int
    in_per_group: int
    out_per_group: int
    size: Three
    kernel: Three
    stride: Three
    dilation: Three
    before: Three
    after: Three
    bias: bool
    scale: bool
    residual: bool
    activation: str
    second: bool
    threads: int
    seed: int

    @property
    def in_shape(self) -> tuple[int, ...]:
        """NCDHW."""
        return (self.batch, self.groups * self.in_per_group, *self.size)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """NCDHW."""
        axes = zip(
            self.size, self.kernel, self.stride, self.dilation, self.before, self.after, strict=True
        )
        sizes = ((d + b + a - gap * (k - 1) - 1) // s + 1 for d, k, s, gap, b, a in axes)
        return (self.batch, self.groups * self.out_per_group, *sizes)

    def model(self) -> onnx.ModelProto:
        """x, [r] -> y."""
        maker = ModelMaker(self.seed)
        x, channels = maker.input("x", *self.in_shape), self.out_shape[1]
        weight = he_normal(maker.rng, (channels, self.in_per_group, *self.kernel))
        operands = [x, maker.constant(weight)]
        if self.bias:
            operands.append(maker.constant(maker.rng.standard_normal(channels, np.float32)))
        y = maker.node(
            "Conv",
            *operands,
            strides=self.stride,
            dilations=self.dilation,
            group=self.groups,
            pads=(*self.before, *self.after),
        )
        if self.scale:
            numbers = [maker.rng.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(4)]
            y = maker.node("BatchNormalization", y, *map(maker.constant, numbers))
        if self.residual:
            y = maker.node("Add", y, maker.input("r", *self.out_shape))
        y = activate(maker, y, self.activation)
        if self.second:
            weight = he_normal(maker.rng, (5, channels, 3, 3, 3))
            inner = maker.node("Conv", y, maker.constant(weight), pads=(1,) * 6)
            y = maker.node("Concat", activate(maker, inner, self.activation), y, axis=1)
        return maker.model(y)

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        """Random inputs."""
        rng = np.random.default_rng([self.seed, seed])
        shapes = {"x": self.in_shape} | ({"r": self.out_shape} if self.residual else {})
        return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


@st.composite
def cases(draw: st.DrawFn, most_channels: int = 36) -> Case:
    """Any legal convolution of small volumes, some output slices of which may see nothing."""

    def each(low: int, high: int) -> Three:
        a, b, c = (draw(st.integers(low, high)) for _ in range(3))
        return a, b, c

    groups = draw(st.sampled_from((1, 1, 2, 3, 8, most_channels)))
    most = most_channels // groups
    kernel, stride, dilation = each(1, 4), each(1, 3), each(1, 2)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    before, after = each(0, 3), each(0, 3)
    least = [max(1, e - b - a) for e, b, a in zip(extents, before, after, strict=True)]
    depth, height, width = (draw(st.integers(low, low + 8)) for low in least)
    return Case(
        draw(st.integers(1, 2)),
        groups,
        draw(st.integers(1, most)),
        draw(st.integers(1, most)),
        (depth, height, width),
        kernel,
        stride,
        dilation,
        before,
        after,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(ACTIVATIONS)),
        draw(st.booleans()),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2**16)),
    )


def check(case: Case, target: str | Device = "host") -> None:
    """Two inputs, one after the other, against ONNX Runtime: the second finds used memory."""
    model = case.model()
    compiled = edgeconv.compile(model, target=target, threads=case.threads)
    for seed in (1, 2):
        feeds = case.feeds(seed)
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE * 2, floor=1)
