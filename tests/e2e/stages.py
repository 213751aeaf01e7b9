"""Random small networks in the manner of ShuffleNetV2, YOLOv8 and DenseNet: channels split, joined,
shuffled and sliced between convolutions, in numbers that fill no vectors.
"""

from __future__ import annotations

import numpy as np
import onnx

from tests.e2e.convolutions import ACTIVATIONS, activate
from tests.e2e.models import ModelMaker, he_normal

CHANNELS = (4, 6, 7, 8, 12, 15, 16, 16, 20, 24, 32, 32, 33, 48)
Image = tuple[str, int, int, int]  # name, channels, height, width


class Stages:
    """A model under construction; `images` are all maps so far, the newest last."""

    def __init__(self, seed: int) -> None:
        self.maker = ModelMaker(seed)
        self.rng = np.random.default_rng(seed)
        self.batch = self.pick((1, 1, 1, 2))
        self.dead = self.chance(0.3)
        self.vectors = self.chance(0.3)  # only whole ones of all targets
        c, h, w = self.channels(), self.pick(range(3, 14)), self.pick(range(3, 14))
        self.images: list[Image] = [(self.maker.input("x", self.batch, c, h, w), c, h, w)]
        if self.chance(0.8):
            self.images.append(self.conv(self.images[0], self.channels()))

    def pick(self, choices: object) -> int:
        """One of some numbers."""
        return int(self.rng.choice(list(choices)))  # type: ignore[call-overload]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def channels(self) -> int:
        """A number of channels."""
        return self.pick((16, 32, 48)) if self.vectors else self.pick(CHANNELS)

    def source(self) -> Image:
        """Mostly the newest image."""
        if self.chance(0.2):
            return self.images[int(self.rng.integers(len(self.images)))]
        return self.images[-1]

    def conv(self, x: Image, k: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Image:
        """A convolution with batch norm and activation, some of its filters dead."""
        name, c, h, w = x
        weight = he_normal(self.rng, (k, c // groups, kernel, kernel))
        if self.dead:
            weight[self.rng.random(k) < 0.25] = 0
        operands = [name, self.maker.constant(weight)]
        if self.chance(0.7):
            operands.append(self.maker.constant(self.rng.standard_normal(k, np.float32)))
        pads, strides = [kernel // 2] * 4, (stride, stride)
        y = self.maker.node("Conv", *operands, pads=pads, strides=strides, group=groups)
        if self.chance(0.3):
            scale = self.rng.uniform(0.5, 1.5, (k, 1, 1)).astype(np.float32)
            y = self.maker.node("Mul", y, self.maker.constant(scale))
        y = activate(self.maker, y, ACTIVATIONS[int(self.rng.integers(len(ACTIVATIONS)))])
        return y, k, -(-h // stride), -(-w // stride)

    def split(self, x: Image, sizes: list[int]) -> list[Image]:
        """All channels in parts, by Split, Slices or Gathers."""
        name, _, h, w = x
        form, starts = self.pick(range(3)), np.cumsum([0, *sizes])
        if form == 0:
            names = self.maker.node(
                "Split",
                *(name, self.maker.constant(np.array(sizes, np.int64))),
                outputs=len(sizes),
                axis=1,
            )
            names = names if isinstance(names, list) else [names]
            return [(n, size, h, w) for n, size in zip(names, sizes, strict=True)]
        if form == 1:
            return [self.slice(x, s, s + n) for s, n in zip(starts, sizes, strict=False)]
        return [self.gather(x, range(s, s + n)) for s, n in zip(starts, sizes, strict=False)]

    def slice(self, x: Image, begin: int, end: int, step: int = 1) -> Image:
        """Every `step`-th channel from begin to end."""
        name, _, h, w = x
        ends = [self.maker.constant(np.array([n], np.int64)) for n in (begin, end, 1, step)]
        return self.maker.node("Slice", name, *ends), len(range(begin, end, step)), h, w

    def gather(self, x: Image, order: object) -> Image:
        """Channels in any order."""
        name, _, h, w = x
        places = np.array(list(order), np.int64)  # type: ignore[call-overload]
        return (
            self.maker.node("Gather", name, self.maker.constant(places), axis=1),
            len(places),
            h,
            w,
        )

    def join(self, *parts: Image) -> Image:
        """Channels behind each other."""
        names, (_, _, h, w) = [p[0] for p in parts], parts[0]
        return self.maker.node("Concat", *names, axis=1), sum(p[1] for p in parts), h, w

    def shuffle(self, x: Image) -> Image:
        """A channel shuffle as exporters write it, or another order, or the same."""
        name, c, h, w = x
        if c % 2 or self.chance(0.3):
            return self.gather(x, self.rng.permutation(c)) if self.chance(0.5) else x
        shapes = [np.array(s, np.int64) for s in ((0, 2, c // 2, h, w), (0, c, h, w))]
        wide = self.maker.node("Reshape", name, self.maker.constant(shapes[0]))
        turned = self.maker.node("Transpose", wide, perm=(0, 2, 1, 3, 4))
        return self.maker.node("Reshape", turned, self.maker.constant(shapes[1])), c, h, w

    def add(self, a: Image, b: Image) -> Image:
        """A residual sum."""
        return self.maker.node("Add", *([a[0], b[0]] if self.chance(0.5) else [b[0], a[0]])), *a[1:]

    # the blocks

    def unit(self) -> Image:
        """ShuffleNetV2: some channels through 1x1, depthwise and 1x1; joined and shuffled."""
        x = self.source()
        c = x[1]
        first = c // 2 if self.chance(0.7) else self.pick(range(1, c))
        kept, y = self.split(x, [first, c - first])
        y = self.conv(y, c - first)
        y = self.conv(y, c - first, self.pick((3, 3, 5)), groups=c - first)
        y = self.conv(y, c - first)
        return self.shuffle(self.join(*([kept, y] if self.chance(0.8) else [y, kept])))

    def down(self) -> Image:
        """ShuffleNetV2: both branches read all channels, with a stride."""
        x = self.source()
        c, k, stride = x[1], self.channels(), self.pick((1, 2))
        left = self.conv(self.conv(x, c, 3, stride, c), k)
        right = self.conv(self.conv(self.conv(x, k), k, 3, stride, k), k)
        return self.shuffle(self.join(left, right))

    def cross_stage(self) -> Image:
        """YOLOv8's C2f: both halves of a convolution and all that is made of the last."""
        x, c = self.source(), self.channels()
        parts = self.split(self.conv(x, 2 * c, self.pick((1, 1, 3))), [c, c])
        for _ in range(self.pick((1, 2, 3))):
            y = self.conv(self.conv(parts[-1], c, self.pick((1, 3))), c, 3)
            parts.append(self.add(parts[-1], y) if self.chance(0.6) else y)
        self.images += parts[:: self.pick((2, 9))]
        joined = self.join(*parts)
        return self.conv(joined, self.channels()) if self.chance(0.8) else joined

    def dense(self) -> Image:
        """DenseNet: a layer's channels behind those it read."""
        x = self.source()
        return self.join(x, self.conv(self.conv(x, self.channels()), self.channels(), 3))

    def pyramid(self) -> Image:
        """YOLO's SPPF: pools of pools, joined with what they are pools of."""
        parts = [self.conv(self.source(), self.channels())]
        for _ in range(self.pick((1, 2))):
            name, *size = parts[-1]
            y = self.maker.node("MaxPool", name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            parts.append((y, *size))  # type: ignore[arg-type]
        return self.conv(self.join(*parts), self.channels(), self.pick((1, 3)))

    def part(self) -> Image:
        """Some channels, not always neighbours, perhaps activated."""
        x = self.source()
        c = x[1]
        begin = self.pick(range(c - 1))
        if self.chance(0.4):
            begin = min(begin // 8 * 8, c - 1)
        y = self.slice(x, begin, self.pick(range(begin + 1, c + 1)), self.pick((1, 1, 1, 2)))
        return (self.maker.node("Relu", y[0]), *y[1:]) if self.chance(0.3) else y

    def again(self) -> Image:
        """Parts of one or two maps in another order."""
        x = self.source()
        others = [i for i in self.images if i[2:] == x[2:]]
        y = others[int(self.rng.integers(len(others)))]
        cut = self.pick(range(1, x[1]))
        first, last = self.split(x, [cut, x[1] - cut])
        return self.join(last, y, first) if self.chance(0.5) else self.join(last, first)

    def gate(self) -> Image:
        """Squeeze and excitation."""
        x = self.source()
        name, c, h, w = x
        pooled = (self.maker.node("GlobalAveragePool", name), c, 1, 1)
        gate = self.maker.node("Sigmoid", self.conv(pooled, c)[0])
        return self.maker.node("Mul", name, gate), c, h, w

    def windows(self) -> Image:
        """A grouped 1x1 convolution of overlapping windows."""
        x = self.source()
        c, width = x[1], self.pick(range(2, max(3, x[1] // 2 + 1)))
        count = self.pick((2, 3, 4))
        starts = [int(s) for s in self.rng.integers(0, c, count)]
        wide = self.gather(x, [(s + j) % c for s in starts for j in range(width)])
        return self.shuffle(self.conv(wide, count * self.pick((2, 4, 8)), groups=count))

    def plain(self) -> Image:
        """A convolution of all channels, perhaps in groups."""
        x = self.source()
        groups = self.pick([g for g in (1, 1, 2, 4, x[1]) if x[1] % g == 0])
        k = groups * max(1, self.channels() // groups)
        return self.conv(x, k, self.pick((1, 3, 5)), self.pick((1, 1, 2)), groups)


BLOCKS = (
    *("unit",) * 4,
    *("down", "down", "cross_stage", "cross_stage", "dense", "pyramid", "part", "part"),
    *("again", "gate", "windows", "plain", "plain"),
)
MOST_CHANNELS = 200


def stages(seed: int, longest: int = 4) -> onnx.ModelProto:
    """A model of up to `longest` blocks; some parts are outputs too."""
    net = Stages(seed)
    for _ in range(net.pick(range(2, longest + 1))):
        block = BLOCKS[int(net.rng.integers(len(BLOCKS)))]
        if net.images[-1][1] < 2:
            block = "dense"
        if net.images[-1][1] > MOST_CHANNELS:
            net.images.append(net.conv(net.images[-1], net.channels()))
        net.images = [i for i in net.images if i[1] > 1] or net.images
        net.images.append(getattr(net, block)())
    outputs = [net.images[-1][0]]
    if net.chance(0.6):
        outputs = [net.conv(net.images[-1], net.channels(), net.pick((1, 3)))[0]]
    if net.chance(0.4):
        outputs.append(net.images[int(net.rng.integers(len(net.images)))][0])
    outputs = [name for name in dict.fromkeys(outputs) if name != "x"]
    return net.maker.model(*(outputs or [net.conv(net.images[-1], 8)[0]]))
