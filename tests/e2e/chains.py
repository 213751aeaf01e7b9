"""Random small networks: a few layers of all kinds, with skips, so that layouts and memory mix."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.e2e.convolutions import ACTIVATIONS, activate
from tests.e2e.models import ModelMaker

MAX_ELEMENTS = 1 << 17  # of one activation
CHANNELS = (1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 24, 32, 33, 48)

Image = tuple[str, int, int, int]  # name, channels, height, width


class Chain:
    """A model under construction; `images` are all 4-D values so far, the newest last."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.maker = ModelMaker(draw(st.integers(0, 2**16)))
        self.batch = draw(st.integers(1, 2))
        c, h, w = draw(st.sampled_from(CHANNELS)), *self._pick(*[st.integers(1, 20)] * 2)
        name = self.maker.input("x", self.batch, c, h, w)
        self.images: list[Image] = [(name, c, h, w)]

    def _pick(self, *choices: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(self.draw(c) for c in choices)

    def layer(self) -> None:
        """Append a random layer that fits."""
        made = getattr(self, self.draw(st.sampled_from(LAYERS)))()
        if made is not None:
            self.images.append(made)

    def source(self) -> Image:
        """Mostly the newest image, sometimes an older one."""
        if len(self.images) > 1 and self.draw(st.integers(0, 4)) == 0:
            return self.draw(st.sampled_from(self.images[:-1]))
        return self.images[-1]

    def conv(self) -> Image:
        """A convolution with an activation, dense, grouped or depthwise."""
        x, c, h, w = self.source()
        groups = self.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
        k = groups * self.draw(st.integers(1, max(1, 48 // groups)))
        r, s = self._pick(st.sampled_from((1, 1, 3, 2)), st.sampled_from((1, 3, 3, 5)))
        stride = self._pick(*[st.sampled_from((1, 1, 2))] * 2)
        dilation = self._pick(*[st.sampled_from((1, 1, 2))] * 2)
        extents = [d * (q - 1) + 1 for d, q in zip(dilation, (r, s), strict=True)]
        pads = []
        for size, extent in zip((h, w), extents, strict=True):
            least = max(0, extent - size)
            first = self.draw(st.integers(0, extent - 1))
            pads.append((first, self.draw(st.integers(max(0, least - first), extent))))
        (top, bottom), (left, right) = pads
        y = self.maker.conv(
            x,
            c,
            k,
            (r, s),
            pads=(top, left, bottom, right),
            stride=stride,  # type: ignore[arg-type]
            dilation=dilation,  # type: ignore[arg-type]
            groups=groups,
            bias=self.draw(st.booleans()),
        )
        oh = (h + top + bottom - extents[0]) // stride[0] + 1
        ow = (w + left + right - extents[1]) // stride[1] + 1
        return activate(self.maker, y, self.draw(st.sampled_from(ACTIVATIONS))), k, oh, ow

    def pool(self) -> Image:
        """Max or average pooling."""
        x, c, h, w = self.source()
        r, s = self._pick(st.integers(1, min(3, h)), st.integers(1, min(3, w)))
        sh, sw = self._pick(st.integers(1, 2), st.integers(1, 2))
        top, left = self._pick(st.integers(0, r - 1), st.integers(0, s - 1))
        bottom, right = self._pick(st.integers(0, r - 1), st.integers(0, s - 1))
        attrs = {"kernel_shape": (r, s), "strides": (sh, sw), "pads": (top, left, bottom, right)}
        if self.draw(st.booleans()):
            y = self.maker.node("MaxPool", x, **attrs)
        else:
            y = self.maker.node(
                "AveragePool", x, count_include_pad=self.draw(st.integers(0, 1)), **attrs
            )
        return y, c, (h + top + bottom - r) // sh + 1, (w + left + right - s) // sw + 1

    def squeeze(self) -> Image:
        """Squeeze and excitation: a global pool, a small convolution, a gate on every channel."""
        x, c, h, w = self.source()
        pooled = self.maker.node("GlobalAveragePool", x)
        gate = self.maker.node("Sigmoid", self.maker.conv(pooled, c, c, 1))
        return self.maker.node("Mul", x, gate), c, h, w

    def add(self) -> Image | None:
        """A sum of two images of one shape, or of an image with itself."""
        x, *shape = self.images[-1]
        other = self.draw(st.sampled_from([i[0] for i in self.images if list(i[1:]) == shape]))
        operands = (x, other) if self.draw(st.booleans()) else (other, x)
        y = self.maker.node(self.draw(st.sampled_from(("Add", "Sub", "Mul"))), *operands)
        return y, *shape  # type: ignore[return-value]

    def scale(self) -> Image:
        """Batch norm, or a constant a channel, a pixel or a tensor."""
        x, c, h, w = self.source()
        rng = self.maker.rng
        kind = self.draw(st.sampled_from(("norm", "Mul", "Add")))
        if kind == "norm":
            mean, bias, scale = (
                self.maker.constant(rng.standard_normal(c, np.float32)) for _ in range(3)
            )
            variance = self.maker.constant(rng.uniform(0.5, 2, c).astype(np.float32))
            return self.maker.node("BatchNormalization", x, scale, bias, mean, variance), c, h, w
        shapes = ((c, 1, 1), (1, c, 1, 1), (), (w,), (h, 1), (1, c, h, w))
        shape = self.draw(st.sampled_from(shapes))
        factor = self.maker.constant(rng.standard_normal(shape).astype(np.float32))
        return self.maker.node(kind, x, factor), c, h, w

    def concat(self) -> Image:
        """Channels of two or three images of one size."""
        _, _, *size = first = self.images[-1]
        equal = [i for i in self.images if list(i[2:]) == size]
        parts = [first] + [
            self.draw(st.sampled_from(equal)) for _ in range(self._pick(st.integers(1, 2))[0])
        ]
        y = self.maker.node("Concat", *(i[0] for i in parts), axis=1)
        return y, sum(i[1] for i in parts), *size  # type: ignore[return-value]

    def upsample(self) -> Image | None:
        """Nearest neighbours, twice the size."""
        x, c, h, w = self.source()
        if self.batch * c * h * w * 4 > MAX_ELEMENTS:
            return None
        scales = self.maker.constant(np.array([1, 1, 2, 2], np.float32))
        attrs = {"mode": "nearest", "nearest_mode": "floor"}
        attrs["coordinate_transformation_mode"] = "asymmetric"
        return self.maker.node("Resize", x, "", scales, **attrs), c, h * 2, w * 2

    def shuffle(self) -> Image:
        """A channel shuffle, as exporters write it."""
        x, c, h, w = self.source()
        g = self.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
        n = self.batch
        shapes = [np.array(s, np.int64) for s in ((n, g, c // g, h, w), (n, c, h, w))]
        wide = self.maker.node("Reshape", x, self.maker.constant(shapes[0]))
        turned = self.maker.node("Transpose", wide, perm=(0, 2, 1, 3, 4))
        return self.maker.node("Reshape", turned, self.maker.constant(shapes[1])), c, h, w

    def reshape(self) -> Image:
        """Another shape of as many elements."""
        x, c, h, w = self.source()
        c2 = self.draw(
            st.sampled_from([d for d in range(1, min(c * h * w, 64) + 1) if c * h * w % d == 0])
        )
        rest = c * h * w // c2
        h2 = self.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        shape = self.maker.constant(np.array((self.batch, c2, h2, rest // h2), np.int64))
        return self.maker.node("Reshape", x, shape), c2, h2, rest // h2

    def transpose(self) -> Image:
        """Rows and columns change places."""
        x, c, h, w = self.source()
        return self.maker.node("Transpose", x, perm=(0, 1, 3, 2)), c, w, h

    def split(self) -> Image | None:
        """The second half of the channels."""
        x, c, h, w = self.source()
        if c < 2:
            return None
        sizes = self.maker.constant(np.array((c // 2, c - c // 2), np.int64))
        first, second = self.maker.node("Split", x, sizes, outputs=2, axis=1)
        self.images.append((first, c // 2, h, w))
        return second, c - c // 2, h, w

    def pad(self) -> Image:
        """Zeros around the image."""
        x, c, h, w = self.source()
        top, left, bottom, right = self._pick(*[st.integers(0, 2)] * 4)
        pads = np.array((0, 0, top, left, 0, 0, bottom, right), np.int64)
        y = self.maker.node("Pad", x, self.maker.constant(pads))
        return y, c, h + top + bottom, w + left + right

    def head(self) -> str:
        """A classifier: a flat vector through a dense layer, perhaps a softmax."""
        x, c, h, w = self.images[-1]
        features = c * h * w
        if features > 4096:
            x, features = self.maker.node("GlobalAveragePool", x), c
        flat = self.maker.node("Flatten", x)
        classes = self.draw(st.integers(8, 40))  # one alone may be near zero by cancellation
        rng = self.maker.rng
        weight = self.maker.constant(
            (rng.standard_normal((features, classes)) / np.sqrt(features)).astype(np.float32)
        )
        bias = self.maker.constant(rng.standard_normal(classes).astype(np.float32))
        y = self.maker.node("Gemm", flat, weight, bias)
        return self.maker.node("Softmax", y, axis=1) if self.draw(st.booleans()) else y


LAYERS = (
    *("conv",) * 6,
    *("pool", "pool", "squeeze", "add", "add", "scale", "scale", "concat", "concat"),
    *("upsample", "shuffle", "shuffle", "reshape", "transpose", "split", "pad"),
)


@st.composite
def chains(draw: st.DrawFn, longest: int = 4) -> onnx.ModelProto:
    """A model of 2 to `longest` layers with one to three outputs."""
    chain = Chain(draw)
    for _ in range(draw(st.integers(2, longest))):
        chain.layer()
    outputs = [chain.head()] if draw(st.integers(0, 3)) == 0 else []
    names = [i[0] for i in chain.images[1:]]
    if not names:
        chain.images.append(chain.conv())
        names = [chain.images[-1][0]]
    if not outputs or draw(st.integers(0, 3)) == 0:
        outputs.append(names[-1])
    if draw(st.integers(0, 3)) == 0:
        outputs.append(draw(st.sampled_from(names)))
    return chain.maker.model(*dict.fromkeys(outputs))
