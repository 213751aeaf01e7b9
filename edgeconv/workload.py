"""What a convolution computes, without saying how: the key every schedule, record and report
shares.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from edgeconv.clusters import Clusters
from edgeconv.errors import ShapeError
from edgeconv.layout import Layout


@dataclass(frozen=True)
class Slices:
    """Images as slices of volumes, [N·depth, C, H, W], and which of them an output slice reads.

    Output slice number `out_first` + i·out_stride of a volume, i < `count`, reads `taps` input
    slices: `first` + i·stride + t·dilation.

    Attributes:
        depth, out_depth: slices of a volume of the data and of the output.
        taps, stride, dilation: the kernel's, along the depth.
        first, out_first, out_stride, count: see above; all slices read exist.
    """

    depth: int
    out_depth: int
    taps: int
    stride: int
    dilation: int
    first: int
    out_first: int
    out_stride: int
    count: int


Activation = tuple[str, tuple[tuple[str, object], ...]]


@dataclass(frozen=True)
class Branch:
    """One of several depthwise convolutions of one input.

    Attributes:
        taps: (row, column) in the window of the workload, of each weight; all different, sorted.
        activation: unary operator applied to this branch alone, as (name, attributes).
    """

    taps: tuple[tuple[int, int], ...]
    activation: Activation | None = None

    @cached_property
    def grid(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """(kernel size, dilation) if the taps are all those of such a filter, else None."""
        rows, columns = (sorted({tap[axis] for tap in self.taps}) for axis in (0, 1))
        if len(self.taps) != len(rows) * len(columns):
            return None
        steps = []
        for places in (rows, columns):
            found = {b - a for a, b in pairwise(places)} or {1}
            if len(found) > 1:
                return None
            steps.append(found.pop())
        return (len(rows), len(columns)), (steps[0], steps[1])

    def __str__(self) -> str:
        """Its filter, as 3x3d2; or the number of its taps and a checksum of their places."""
        if self.grid is None:
            text = f"{len(self.taps)}taps#{zlib.crc32(repr(self.taps).encode()) & 0xFFFF:04x}"
        else:
            (r, s), (dy, dx) = self.grid
            text = f"{r}x{s}" + (f"d{dy}" if dy == dx else f"d{dy}x{dx}") * (max(dy, dx) > 1)
        return text if self.activation is None else f"{text}:{self.activation[0]}"


@dataclass(frozen=True)
class Branches:
    """Depthwise convolutions of one input, summed or concatenated.

    Attributes:
        members: each branch, in the order of the weights and, concatenated, of the output channels.
        concat: whether outputs lie behind each other as channels instead of being added up.
    """

    members: tuple[Branch, ...]
    concat: bool = False

    @property
    def taps(self) -> int:
        """Weights of a channel in all branches."""
        return sum(len(b.taps) for b in self.members)

    def __str__(self) -> str:
        """The members joined by "+", or by "|" where they are concatenated."""
        return ("|" if self.concat else "+").join(map(str, self.members))


@dataclass(frozen=True)
class Conv2d:
    """A 2-D convolution of float32 data, NCHW semantics, OIHW weights.

    Attributes:
        batch, in_channels, height, width: shape of the input.
        out_channels: number of filters.
        kernel_size, stride, dilation: (vertical, horizontal).
        padding: zeros added (top, left, bottom, right); where negative, the input is cut.
        groups: input and output channels are cut into this many independent groups.
        input_shuffle: the input's channels are read shuffled in this many groups (ShuffleNet):
            channel c of the convolution is channel (c % s)·(C/s) + c // s of the data.
        slices: set if images are slices of volumes; `batch` counts the output slices then, and the
            weights of all taps along the depth lie below each other, [K, CPG, taps·R, S].
        clusters: which input channels the output channels read, if not all (groups is 1 then);
            weights of all other input channels are there, and zero.
        branches: set if this is several depthwise convolutions of one input; the kernel is the
            window around all their taps then (dilation 1), of which no other place is multiplied,
            and the weights are [C, taps], those of the first branch first.
    """

    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_shuffle: int = 1
    slices: Slices | None = None
    clusters: Clusters | None = None
    branches: Branches | None = None

    @property
    def tap_rows(self) -> int:
        """Rows of the weights: those of the kernel, for each tap along the depth."""
        return self.kernel_size[0] * (1 if self.slices is None else self.slices.taps)

    @property
    def in_images(self) -> int:
        """Images in the buffer of the data."""
        s = self.slices
        return self.batch if s is None else self.batch // s.count * s.depth

    @property
    def out_images(self) -> int:
        """Images in the buffer of the output."""
        s = self.slices
        return self.batch if s is None else self.batch // s.count * s.out_depth

    @cached_property
    def out_height(self) -> int:
        """Rows of the output."""
        extent = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        return (self.height + self.padding[0] + self.padding[2] - extent) // self.stride[0] + 1

    @cached_property
    def out_width(self) -> int:
        """Columns of the output."""
        extent = self.dilation[1] * (self.kernel_size[1] - 1) + 1
        return (self.width + self.padding[1] + self.padding[3] - extent) // self.stride[1] + 1

    @property
    def in_channels_per_group(self) -> int:
        """CPG: input channels one output channel reads."""
        return self.in_channels // self.groups

    @property
    def out_channels_per_group(self) -> int:
        """KPG: output channels a group makes."""
        return self.out_channels // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        pixels = self.batch * self.out_height * self.out_width
        if self.branches is not None:
            return pixels * self.in_channels * self.branches.taps
        taps = self.tap_rows * self.kernel_size[1]
        if self.clusters is not None:
            return pixels * self.clusters.products * taps
        return pixels * self.out_channels * self.in_channels_per_group * taps

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """NCHW shape of the output."""
        return (self.batch, self.out_channels, self.out_height, self.out_width)

    @property
    def is_pointwise(self) -> bool:
        """True for a 1×1 kernel."""
        return self.kernel_size == (1, 1) and self.branches is None

    @property
    def is_depthwise(self) -> bool:
        """True where each group reads a single channel."""
        return self.groups > 1 and self.in_channels_per_group == 1

    @property
    def kind(self) -> str:
        """The field's name for it: dense, pointwise, grouped, depthwise, sliding-channel or ragged
        groups, 'dilated' before it; 'depthwise branches ×3', or 'merged depthwise' for the taps of
        several in one.
        """
        if self.branches is not None:
            count = len(self.branches.members)
            return "merged depthwise" if count == 1 else f"depthwise branches ×{count}"
        if self.clusters is not None and self.clusters.is_ragged:
            name = "sliding-channel" if self.clusters.window else "ragged groups"
        elif self.is_depthwise:
            name = "depthwise"
        elif self.groups > 1:
            name = "grouped pointwise" if self.is_pointwise else "grouped"
        else:
            name = "pointwise" if self.is_pointwise else "dense"
        return f"dilated {name}" if max(self.dilation) > 1 and not self.is_pointwise else name

    def __str__(self) -> str:
        """The one shape grammar: 64x56x56 -> 64, k3x3 s1x1 p1,1,1,1 d1x1 g8."""
        batch = f"{self.batch}*" if self.batch > 1 else ""
        pads = ",".join(map(str, self.padding))
        shuffle = f" shuffle{self.input_shuffle}" if self.input_shuffle > 1 else ""
        depth = "" if self.slices is None else f" depth{self.slices.taps}"
        depth += "" if self.clusters is None else f" {self.clusters}"
        branches = "" if self.branches is None else f" {self.branches}"
        return (
            f"{batch}{self.in_channels}x{self.height}x{self.width}->{self.out_channels} "
            f"k{self.kernel_size[0]}x{self.kernel_size[1]} s{self.stride[0]}x{self.stride[1]} "
            f"p{pads} d{self.dilation[0]}x{self.dilation[1]} g{self.groups}"
            f"{shuffle}{depth}{branches}"
        )

    @classmethod
    def parse(cls, text: str) -> Conv2d:
        """The convolution that the shape grammar describes; `str` writes it.

        The order after the arrow is free. What is left out is 1, padding 0; `k3` is `k3x3`, `p1`
        is `p1,1,1,1`, `p1,2` has 1 above and below, 2 left and right.

        Raises:
            ShapeError: the text is not of the grammar, or describes no convolution.
        """
        return _parse(text)


_HEAD = re.compile(r"(?:(\d+)\*)?(\d+)x(\d+)x(\d+)->(\d+)", re.ASCII)
_WORD = re.compile(r"(shuffle|[a-z]+)(-?\d+(?:[x,]-?\d+)*)", re.ASCII)
_EXAMPLE = "such as 64x56x56->64 k3x3 s1x1 p1,1,1,1 d1x1 g8"
_FIELDS = {
    "k": "kernel_size",
    "s": "stride",
    "d": "dilation",
    "p": "padding",
    "g": "groups",
    "shuffle": "input_shuffle",
}
_MOST = 1 << 20  # of any number in a shape


def _parse(text: str) -> Conv2d:
    def fault(reason: str) -> ShapeError:
        return ShapeError(f"shape '{text.strip()}': {reason}")

    first, *words = re.sub(r"\s*->\s*", "->", text.strip()).split() or [""]
    head = _HEAD.fullmatch(first.rstrip(","))
    if head is None:
        raise fault(f"it begins with CHANNELSxHEIGHTxWIDTH->CHANNELS, {_EXAMPLE}")
    sizes = [int(number or 1) for number in head.groups()]
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        match = _WORD.fullmatch(word.rstrip(","))
        if match is None or match[1] not in _FIELDS:
            raise fault(f"'{word}' is none of k, s, p, d, g, shuffle and its numbers, {_EXAMPLE}")
        if match[1] in found:
            raise fault(f"{match[1]} is given twice")
        found[match[1]] = tuple(map(int, re.split("[x,]", match[2])))
    if "k" not in found:
        raise fault(f"the kernel is missing, {_EXAMPLE}")
    numbers = [*sizes, *(n for name, v in found.items() if name != "p" for n in v)]
    if not all(1 <= n <= _MOST for n in numbers):
        raise fault(f"each number but padding is from 1 to {_MOST}")
    fields = {_FIELDS[name]: _spread(name, values, fault) for name, values in found.items()}
    batch, channels, height, width, filters = sizes
    conv = Conv2d(batch, channels, height, width, filters, **fields)
    _check(conv, fault)
    return conv


def _spread(name: str, values: tuple[int, ...], fault: Callable[[str], ShapeError]) -> Any:
    """The value of a field: short forms written out."""
    count = len(values)
    if name in ("g", "shuffle"):
        if count != 1:
            raise fault(f"{name} takes one number")
        return values[0]
    if name == "p":
        if count not in (1, 2, 4):
            raise fault("p takes one number, two (vertical, horizontal) or four")
        return values * (4 // count)
    if count > 2:
        raise fault(f"{name} takes one number or two, such as {name}3x3")
    return values * (2 // count)


def _check(conv: Conv2d, fault: Callable[[str], ShapeError]) -> None:
    """Refuse what no convolution can be."""
    for channels, what in ((conv.in_channels, "input"), (conv.out_channels, "output")):
        if channels % conv.groups:
            raise fault(f"{conv.groups} groups do not divide {channels} {what} channels")
    if conv.in_channels % conv.input_shuffle:
        raise fault(f"{conv.in_channels} channels cannot be shuffled in {conv.input_shuffle}")
    if conv.out_height < 1 or conv.out_width < 1:
        raise fault("the kernel is larger than the padded map")


@dataclass(frozen=True)
class Place:
    """Where the output of a convolution lies in a larger map that several convolutions fill.

    Attributes:
        size: rows and columns of the whole map.
        start: row and column of the first output.
        step: rows and columns from an output to the next.
    """

    size: tuple[int, int]
    start: tuple[int, int]
    step: tuple[int, int]


@dataclass(frozen=True)
class ConvTask:
    """A convolution as a kernel sees it: the workload, what is fused behind it, and all layouts.

    Attributes:
        conv: the workload.
        data, out, residual: layouts of the input, of the output, and of the tensor added to it.
        bias: a per-channel constant is added.
        activation: unary operator applied last, as (name, attributes).
        place: where in `out` and `residual` the results lie, if they are only a part of them.
    """

    conv: Conv2d
    data: Layout
    out: Layout
    bias: bool = False
    residual: Layout | None = None
    activation: Activation | None = None
    place: Place | None = None

    @property
    def convolutions(self) -> tuple[ConvTask, ...]:
        """Itself; of a pair, both."""
        return (self,)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.conv.macs

    @property
    def workload(self) -> str:
        """In the shape grammar."""
        return str(self.conv)

    @property
    def text(self) -> str:
        """The workload, and what is fused behind it."""
        extras = ["+residual"] * (self.residual is not None)
        extras += [f"+{self.activation[0]}"] if self.activation else []
        return " ".join([self.workload, *extras])


@dataclass(frozen=True)
class PairTask:
    """Two convolutions as one kernel; what the first makes stays in scratch memory.

    Attributes:
        first: layouts of its output and residual say nothing.
        second: the layout of its data says nothing; its padding is zeros around the first's result,
            bias and activation included.
    """

    first: ConvTask
    second: ConvTask

    @property
    def convolutions(self) -> tuple[ConvTask, ...]:
        """Both, in order."""
        return (self.first, self.second)

    @property
    def workload(self) -> str:
        """Both in the shape grammar."""
        return f"{self.first.workload} then {self.second.workload}"

    @property
    def text(self) -> str:
        """Both, and what is fused behind each."""
        return f"{self.first.text} then {self.second.text}"

    @property
    def bare(self) -> PairTask:
        """The same without layouts: what it is before they are chosen."""
        plain = Layout(1)
        residual = None if self.second.residual is None else plain
        return PairTask(
            replace(self.first, data=plain, out=plain),
            replace(self.second, data=plain, out=plain, residual=residual),
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.first.conv.macs + self.second.conv.macs

    @property
    def intermediate_bytes(self) -> int:
        """Size of the map between the two."""
        n, c, h, w = self.first.conv.output_shape
        return 4 * n * c * h * w

    @property
    def kind(self) -> str:
        """As in "pointwise + depthwise"."""
        return f"{self.first.conv.kind} + {self.second.conv.kind}"


@dataclass(frozen=True)
class PoolTask:
    """Max or average pooling of a map as a kernel sees it.

    Attributes:
        op: the operator, "max_pool2d" or "avg_pool2d".
        window: the depthwise convolution that has the same windows.
        data, out: layouts of the input and of the output.
        divisor: an average is over the "full" window, or the "valid" part without padding.
        aligned: False if the input is a buffer that a caller provides.
    """

    op: str
    window: Conv2d
    data: Layout
    out: Layout
    divisor: str = "full"
    aligned: bool = True

    @property
    def workload(self) -> str:
        """The operator, and its windows in the shape grammar."""
        over = " valid" * (self.divisor == "valid")
        return f"{self.op} {self.window}{over}"

    @property
    def text(self) -> str:
        """The workload: nothing is fused behind it."""
        return self.workload


ConvolutionTask = ConvTask | PairTask
Task = ConvolutionTask | PoolTask
