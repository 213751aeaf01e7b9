"""Seeded random convolutions of the classes that comparisons speak of.

Every class is a recipe that draws one layer from a generator; `draw` repeats it until the layer is
in its class and of a size that networks have. Layer number i of a class does not depend on how many
are drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.workload import Conv2d

MAPS = (7, 8, 10, 12, 14, 16, 19, 20, 24, 26, 28, 32, 38, 40, 48, 52, 56, 64, 75, 80, 96, 104, 112)
ASPECTS = (9 / 16, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 16 / 9)  # width / height of maps not square
MOST_ELEMENTS = 128 * 112 * 112  # of an activation
MEGAFLOPS = (5.0, 2000.0)
MEGAFLOPS_DEPTHWISE = (1.0, 2000.0)  # networks' depthwise layers are small: 512x14x14 has 1.8
CHAIN = 4

Generator = np.random.Generator


@dataclass(frozen=True)
class LayerClass:
    """One class: a recipe, and the test that a layer belongs to it."""

    name: str
    title: str
    recipe: Callable[[Generator], Conv2d]
    contains: Callable[[Conv2d], bool]
    megaflops: tuple[float, float] = MEGAFLOPS


def draw(layer_class: LayerClass, count: int, seed: int = 0) -> list[Conv2d]:
    """The first `count` layers of a class, all different."""
    found: list[Conv2d] = []
    for number in range(count):
        key = [seed, zlib.crc32(layer_class.name.encode()), number]
        rng = np.random.default_rng(key)
        while True:
            conv = layer_class.recipe(rng)
            if conv not in found and realistic(conv, layer_class) and layer_class.contains(conv):
                found.append(conv)
                break
    return found


def in_turns(
    classes: Sequence[LayerClass], count: int, seed: int = 0
) -> Iterator[tuple[str, LayerClass, Conv2d]]:
    """(key of its results, class, layer) of `count` layers a class, the classes in turns: a run
    that stops has some of each.
    """
    layers = {c.name: draw(c, count, seed) for c in classes}
    for number in range(count):
        for layer_class in classes:
            conv = layers[layer_class.name][number]
            yield f"{layer_class.name}: {conv}", layer_class, conv


def realistic(conv: Conv2d, layer_class: LayerClass) -> bool:
    """Its work and its activations have sizes that networks have."""
    low, high = layer_class.megaflops
    elements = max(
        conv.in_channels * conv.height * conv.width,
        conv.out_channels * conv.out_height * conv.out_width,
    )
    smallest = min(conv.height, conv.width)
    fits = max(conv.padding) < smallest and smallest >= 4
    return fits and low <= 2e-6 * conv.macs <= high and elements <= MOST_ELEMENTS


def chainable(conv: Conv2d) -> bool:
    """Its output can be the input of the same convolution."""
    return (conv.in_channels, conv.height, conv.width) == conv.output_shape[1:]


def alone(conv: Conv2d, seed: int = 0) -> onnx.ModelProto:
    """The convolution with bias, NCHW input and output."""
    b = _builder(conv, seed)
    return b.model(layer(b, "input", conv))


def chain(conv: Conv2d, seed: int = 0, length: int = CHAIN) -> onnx.ModelProto:
    """The convolution `length` times with weights of its own each time, ReLU behind each."""
    b = _builder(conv, seed)
    x = "input"
    for _ in range(length):
        x = b.relu(layer(b, x, conv))
    return b.model(x)


def _builder(conv: Conv2d, seed: int) -> Builder:
    return Builder("layer", (conv.batch, conv.in_channels, conv.height, conv.width), seed)


def layer(b: Builder, x: str, conv: Conv2d) -> str:
    """Append the convolution to a model under construction."""
    return b.conv(
        x,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )


def _conv(
    rng: Generator,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    height: int | None = None,
) -> Conv2d:
    """Same-padding; one map in six is not square."""
    if height is None:
        height = int(rng.choice(MAPS))
    aspect = rng.choice(ASPECTS) if rng.random() < 1 / 6 else 1.0
    width = round(height * aspect)
    p = dilation * (kernel - 1) // 2
    return Conv2d(
        1,
        inputs,
        height,
        width,
        outputs,
        (kernel, kernel),
        (stride, stride),
        (p, p, p, p),
        (dilation, dilation),
        groups,
    )


def _channels(rng: Generator, low: int, high: int) -> int:
    """Log-uniform; half are multiples of 16, a quarter of 8, a quarter any number."""
    value = round(np.exp(rng.uniform(np.log(low), np.log(high))))
    step = int(rng.choice([16, 16, 8, 1]))
    return max(step, value // step * step)


def _stride(rng: Generator) -> int:
    return int(rng.choice([1, 1, 1, 2]))


def _dilation(rng: Generator, stride: int) -> int:
    return int(rng.choice([1, 1, 1, 2, 3, 4])) if stride == 1 else 1


def _grouped(rng: Generator, low: int, high: int) -> Conv2d:
    """KPG is `low` … `high`, every other time a power of two; four layers in five have as many
    inputs a group, the others half or twice as many.
    """
    powers = [p for p in (2, 4, 8, 16, 32) if low <= p <= high]
    kpg = int(rng.choice(powers)) if rng.random() < 0.5 else int(rng.integers(low, high + 1))
    cpg = int(rng.choice([kpg] * 8 + [max(1, kpg // 2), 2 * kpg]))
    total = round(np.exp(rng.uniform(np.log(32), np.log(1024))))
    groups = max(2, total // kpg)
    stride = _stride(rng)
    kernel = int(rng.choice([1, 3, 3, 3, 3, 3, 5]))
    dilation = 1 if kernel == 1 else _dilation(rng, stride)
    return _conv(
        rng, groups * cpg, groups * kpg, kernel, stride=stride, dilation=dilation, groups=groups
    )


def _depthwise(rng: Generator) -> Conv2d:
    channels = _channels(rng, 32, 1024)
    stride, kernel = _stride(rng), int(rng.choice([3, 3, 5, 7]))
    dilation = _dilation(rng, stride)
    return _conv(rng, channels, channels, kernel, stride=stride, dilation=dilation, groups=channels)


def _pointwise(rng: Generator) -> Conv2d:
    inputs = _channels(rng, 16, 1024)
    outputs = inputs if rng.random() < 0.5 else _channels(rng, 16, 1024)
    return _conv(rng, inputs, outputs, 1, stride=int(rng.choice([1] * 7 + [2])))


def _dense(rng: Generator) -> Conv2d:
    kernel = int(rng.choice([3, 3, 3, 5, 7]))
    if rng.random() < 0.15:  # a network's first layer
        outputs, size = _channels(rng, 16, 96), int(rng.choice([112, 160, 224, 256]))
        return _conv(rng, 3, outputs, kernel, stride=int(rng.choice([1, 2, 2])), height=size)
    inputs = _channels(rng, 16, 512)
    outputs = inputs if rng.random() < 0.6 else _channels(rng, 16, 512)
    stride = _stride(rng)
    dilation = int(rng.choice([1, 1, 1, 1, 2])) if stride == 1 else 1
    return _conv(rng, inputs, outputs, kernel, stride=stride, dilation=dilation)


def _is_grouped(conv: Conv2d, low: int, high: int) -> bool:
    c, k = conv.in_channels, conv.out_channels
    sizes = 32 <= c <= 1024 and 32 <= k <= 1024 and 7 <= conv.height <= 112
    inside = low <= conv.out_channels_per_group <= high
    return sizes and inside and conv.groups > 1 and not conv.is_depthwise


CLASSES: tuple[LayerClass, ...] = (
    LayerClass(
        "grouped_narrow",
        "Grouped, at most 8 outputs a group",
        lambda rng: _grouped(rng, 2, 8),
        lambda conv: _is_grouped(conv, 1, 8),
    ),
    LayerClass(
        "grouped_wide",
        "Grouped, 9 to 63 outputs a group",
        lambda rng: _grouped(rng, 9, 63),
        lambda conv: _is_grouped(conv, 9, 63),
    ),
    LayerClass(
        "depthwise",
        "Depthwise, 3×3 to 7×7",
        _depthwise,
        lambda conv: conv.is_depthwise,
        MEGAFLOPS_DEPTHWISE,
    ),
    LayerClass(
        "pointwise", "Pointwise", _pointwise, lambda conv: conv.is_pointwise and conv.groups == 1
    ),
    LayerClass(
        "dense",
        "Dense, 3×3 to 7×7",
        _dense,
        lambda conv: conv.groups == 1 and not conv.is_pointwise,
    ),
)


def layer_class(name: str) -> LayerClass:
    """The class called `name`; KeyError if there is none."""
    found = {c.name: c for c in CLASSES}
    return found[name]
