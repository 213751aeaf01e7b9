"""What `edgeconv bench` measures: single layers by group count or along other axes, and networks.

A case knows how to make its ONNX model, and the facts that reports show: work and memory traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import onnx

import edgeconv
from edgeconv.benchmarks import networks, random_layers
from edgeconv.errors import EdgeconvError
from edgeconv.workload import Conv2d

Mode = Literal["alone", "chain"]
DEPTHWISE = "dw"
FLOAT = 4  # bytes

Model = tuple[onnx.ModelProto, dict[str, Any]]


@dataclass(frozen=True)
class CaseToRun:
    """One network on so many threads.

    Attributes:
        key: unique in a result file.
        make: the model, and what else the result file tells of the case.
    """

    key: str
    threads: int
    make: Callable[[], Model]


def threads_text(threads: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{threads} thread{'s' * (threads > 1)}"


def of_layer(conv: Conv2d, threads: int = 1, mode: Mode = "alone", **facts: Any) -> CaseToRun:
    """A convolution with bias; alone, NCHW in and out, or in a chain of four with ReLU behind each.

    Raises:
        EdgeconvError: its output cannot be the input of the next in a chain.
    """
    if mode == "chain" and not random_layers.chainable(conv):
        raise EdgeconvError(f"'{conv}' can't be chained: its output is not of its input's shape")
    times = random_layers.CHAIN if mode == "chain" else 1

    def make() -> Model:
        build = random_layers.chain if mode == "chain" else random_layers.alone
        return build(conv), {
            **facts,
            "layer": str(conv),
            "kind": conv.kind,
            "mode": mode,
            "flops": 2 * conv.macs * times,
            "bytes": traffic(conv) * times,
        }

    chained = f", chain of {times}" if mode == "chain" else ""
    return CaseToRun(f"{conv}{chained}, {threads_text(threads)}", threads, make)


def traffic(conv: Conv2d) -> int:
    """Bytes a convolution must move at least: input, weights and bias read, output written."""
    data = conv.in_images * conv.in_channels * conv.height * conv.width
    weights = conv.out_channels * conv.in_channels_per_group * conv.tap_rows * conv.kernel_size[1]
    out = conv.batch * conv.out_channels * conv.out_height * conv.out_width
    return FLOAT * (data + weights + conv.out_channels + out)


def of_network(
    name: str, threads: int = 1, shapes: Mapping[str, Sequence[int]] | None = None
) -> CaseToRun:
    """A network that `networks.load` knows, or an ONNX file, its open dimensions fixed."""

    def make() -> Model:
        model = networks.with_fixed_shapes(networks.load(name), shapes or {})
        return model, {"network": networks.title(name), **_facts(model)}

    return CaseToRun(f"{networks.title(name)}, {threads_text(threads)}", threads, make)


def _facts(model: onnx.ModelProto) -> dict[str, Any]:
    """Work of a network; empty where edgeconv cannot read it. Bytes: those of every convolution and
    matrix product, each reading its inputs and weights and writing its outputs once.
    """
    try:
        found = edgeconv.inspect(model)
    except EdgeconvError:
        return {}
    moved = 0
    for layer in found.layers:
        if layer.macs:
            values = [_size(shape) for shape in (*layer.inputs, *layer.outputs)]
            moved += FLOAT * (sum(values) + layer.parameters)
    return {"flops": 2 * found.macs, "bytes": moved, "parameters": found.parameters}


def _size(shape: Sequence[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


@dataclass(frozen=True)
class Square:
    """A square convolution as options describe it; padding keeps the size at stride 1."""

    channels: int = 128
    size: int = 28
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    batch: int = 1
    groups: int = 1
    out_channels: int | None = None

    def conv(self) -> Conv2d:
        """The workload.

        Raises:
            ShapeError: groups do not divide the channels, or a number is out of range.
        """
        pad = self.dilation * (self.kernel - 1) // 2
        outputs = self.out_channels or self.channels
        return Conv2d.parse(
            f"{self.batch}*{self.channels}x{self.size}x{self.size}->{outputs} k{self.kernel} "
            f"s{self.stride} p{pad} d{self.dilation} g{self.groups}"
        )


def groups(
    base: Square,
    channels: Sequence[int],
    sizes: Sequence[int],
    counts: Sequence[str],
    threads: Sequence[int] = (1,),
    mode: Mode = "alone",
) -> tuple[list[CaseToRun], list[str]]:
    """(a case for each number of channels and size, group count and thread count; group counts that
    do not divide the channels, as texts). A count is a number, or "dw": as many as channels.

    Raises:
        EdgeconvError: nothing is left, or a count is no number.
    """
    found: list[CaseToRun] = []
    skipped: list[str] = []
    for (width, size), count in product(
        zip(channels, _spread(sizes, channels), strict=True), counts
    ):
        number = group_count(count, width)
        if width % number:
            skipped.append(f"{count} groups of {width} channels")
            continue
        conv = replace(base, channels=width, size=size, groups=number).conv()
        facts = {"channels": width, "size": size, "groups": number}
        found += [of_layer(conv, t, mode, **facts) for t in threads]
    unique = list({case.key: case for case in found}.values())
    if not unique:
        raise EdgeconvError(f"no group count divides the channels: {', '.join(skipped)}")
    return unique, skipped


def _spread(sizes: Sequence[int], channels: Sequence[int]) -> Sequence[int]:
    """One size for each number of channels.

    Raises:
        EdgeconvError: there are several sizes, but not as many as numbers of channels.
    """
    if len(sizes) == 1:
        return list(sizes) * len(channels)
    if len(sizes) != len(channels):
        raise EdgeconvError(
            f"sizes {', '.join(map(str, sizes))} do not pair with channels "
            f"{', '.join(map(str, channels))}; give one size, or one for each"
        )
    return sizes


def group_count(text: str, channels: int) -> int:
    """The number a group count stands for.

    Raises:
        EdgeconvError: neither a positive number nor "dw".
    """
    if text == DEPTHWISE:
        return channels
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise EdgeconvError(f"'{text}' is no group count; give numbers, or {DEPTHWISE}")
    return int(text)


def scaling(
    base: Square, threads: Sequence[int], channels: Sequence[int], sizes: Sequence[int]
) -> Iterator[CaseToRun]:
    """A layer along one axis at a time, the others as in `base` and on the first thread count; with
    more than one group, the channels a group stay as they are.

    Raises:
        ShapeError: the channels a group do not divide a number of channels.
    """
    per_group = base.channels // base.groups
    for count in threads:
        yield _on_axis("threads", base, count)
    for width in channels:
        number = 1 if base.groups == 1 else max(1, width // per_group)
        yield _on_axis("channels", replace(base, channels=width, groups=number), threads[0])
    for size in sizes:
        yield _on_axis("size", replace(base, size=size), threads[0])


def _on_axis(axis: str, square: Square, threads: int) -> CaseToRun:
    """A point of an axis; the base layer is on all of them."""
    facts: dict[str, Any] = {"axis": axis, "channels": square.channels, "size": square.size}
    case = of_layer(square.conv(), threads, **facts)
    return replace(case, key=f"{axis}: {case.key}")
