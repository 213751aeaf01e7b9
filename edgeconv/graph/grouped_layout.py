"""Which images stay row-major because their convolutions run faster along rows or pixels.

A grouped convolution whose groups don't fill vectors of channels may run along the rows of NCHW
maps (schedules/grouped_rows), and one that stands alone between NCHW tensors, or has few input
channels and makes an output, saves the copies into channels and back. Whether that pays depends on
all that touches the same images, so whole plans are compared: images that grouped convolutions and
pixelwise operators connect are made row-major, and stay so if the estimated time of all kernels and
copies falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from edgeconv.graph import pointwise_layout
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.layout import (
    FEW_CHANNELS,
    choose_layouts,
    conv_task,
    is_image,
    is_pixelwise,
    is_scheduled_conv,
    single,
)
from edgeconv.graph.linked import Linked
from edgeconv.graph.parts import parts
from edgeconv.graph.plan import Plan
from edgeconv.operators.pooling import POOLS
from edgeconv.workload import Conv2d, ConvTask

Cycles = Callable[[ConvTask], float]
GAIN = 0.92  # of the time that may be left: estimates are not better than that
POINTWISE_GAIN = 0.99  # the same between kernels alike
LARGE = 1 << 18  # elements that do not stay in a second-level cache
MOST_STRIDE = 2  # horizontal; beyond it vectors would be gathered
NARROW = 32  # channels; wider dense convolutions are better in blocks
BLOCK_CYCLES = 6.0  # for each vector that a copy moves into whole blocks or out of them
COPY_CYCLES = 9.0  # for each vector of other channels
SKIP_CYCLES = 8.0  # for each vector of every second column
GATHER_CYCLES = 24.0  # where it can't move whole vectors
POOL_CYCLES = 16.0  # more for each vector of a pooled map, if it is row-major
POOL_TAP_CYCLES = 2.0  # besides, for each tap
STRIDED_TAP_CYCLES = 11.0  # the same where columns are skipped


def row_values(graph: Graph, lanes: int, cycles: Cycles) -> frozenset[Value]:
    """The images that are to be row-major; `cycles` is the least time of a convolution,
    asked for the same ones again and again."""
    chosen: frozenset[Value] = frozenset()
    least: float | None = None
    for candidate, gain in _candidates(graph):
        if least is None:
            least = total(graph, lanes, cycles, chosen)
        time = total(graph, lanes, cycles, chosen | candidate)
        if time < least * gain:
            chosen, least = chosen | candidate, time
    return chosen


def total(graph: Graph, lanes: int, cycles: Cycles, rows: frozenset[Value]) -> float:
    """Estimated cycles of all convolutions, and of the other kernels that depend on layouts."""
    copy, same = graph.twin()
    plan = choose_layouts(copy, lanes, frozenset(same[v] for v in rows))
    return sum(_cycles(node, plan, lanes, cycles) for node in copy.nodes)


def _cycles(node: Node, plan: Plan, lanes: int, cycles: Cycles) -> float:
    if any(plan.is_free(v) for v in node.outputs) or any(v.size == 0 for v in node.outputs):
        return 0.0
    if is_scheduled_conv(node):
        return sum(cycles(conv_task(node, part, plan)) for part in parts(node))
    vectors = node.outputs[0].size / lanes
    if node.op in POOLS:
        if plan.layouts[node.output].block > 1:
            return 0.0
        per_tap = STRIDED_TAP_CYCLES if node.attrs["stride"][1] > 1 else POOL_TAP_CYCLES
        return vectors * (POOL_CYCLES + math.prod(node.attrs["kernel"]) * per_tap)
    if node.op not in ("copy", "slice") or len(node.output.shape) != 4:
        return 0.0
    if node.op == "slice":
        return vectors * (SKIP_CYCLES if node.attrs["step"][3] <= 2 else GATHER_CYCLES)
    if node.output.shape[1] < lanes:
        return vectors * GATHER_CYCLES
    of_each = COPY_CYCLES if node.output.shape[1] % lanes else BLOCK_CYCLES
    return vectors * of_each * (2 if node.output.size > LARGE else 1)


def _candidates(graph: Graph) -> Iterator[tuple[frozenset[Value], float]]:
    """Sets of images that could be row-major, and the share of time that may be left: those that
    pointwise convolutions connect with an input or output, those around grouped ones and
    convolutions of few channels, then all.
    """
    ends = {*graph.inputs, *graph.outputs}
    for group in _connected(graph, _runs_along_pixels):
        if not ends.isdisjoint(group):
            yield group, POINTWISE_GAIN
    for group in _connected(graph, _is_seed_or_stem):
        if _is_legal(graph, group):
            yield group, GAIN
    if not any(_is_seed(node) for node in graph.nodes):
        return
    for group in _connected(graph, lambda node: single(node) is not None):
        if _is_legal(graph, group):
            yield group, GAIN


def _is_seed(node: Node) -> bool:
    """Whether the node is a convolution that grouped_rows is meant for."""
    conv = _along_rows(node)
    if conv is None or conv.out_channels_per_group == 1:
        return False
    return conv.groups > 1 or max(conv.in_channels, conv.out_channels) <= NARROW


def _is_seed_or_stem(node: Node) -> bool:
    """The same, or a dense convolution of few channels, whose output alone may be worth sparing a
    copy: no reason to look at all images.
    """
    conv = _along_rows(node)
    stem = conv is not None and conv.groups == 1 and conv.in_channels <= FEW_CHANNELS
    return stem or _is_seed(node)


def _along_rows(node: Node) -> Conv2d | None:
    """The k×k convolution that the node is, if grouped_rows can take it; else None."""
    conv = single(node) if is_scheduled_conv(node) else None
    if conv is None or conv.is_pointwise or conv.stride[1] > MOST_STRIDE:
        return None
    return conv if is_image(node.output) else None


def _runs_along_pixels(node: Node) -> bool:
    """Whether the node is a convolution that planar_pointwise is meant for."""
    conv = single(node) if is_scheduled_conv(node) else None
    return conv is not None and is_image(node.output) and pointwise_layout.accepts(conv, 1)


def _is_legal(graph: Graph, group: frozenset[Value]) -> bool:
    """Whether there are kernels along rows for every convolution between two of the images."""
    if not any(_is_seed_or_stem(n) and n.output in group for n in graph.nodes):
        return False
    for node in graph.nodes:
        if not is_scheduled_conv(node) or node.output not in group or node.inputs[0] not in group:
            continue
        conv = single(node)
        if conv is None or (conv.stride[1] > MOST_STRIDE and not conv.is_pointwise):
            return False
        if conv.is_depthwise and conv.input_shuffle > 1:
            return False
        if conv.is_pointwise and any(conv.padding):
            return False
    return True


def _connected(graph: Graph, links: Callable[[Node], bool]) -> list[frozenset[Value]]:
    """Images that convolutions of which `links` holds, or pixelwise operators, connect."""
    found = Linked[Value]()
    for node in graph.nodes:
        linked: list[Value] = []
        if is_scheduled_conv(node):
            if links(node):
                linked = [node.inputs[0], node.output]
            if node.attrs.get("has_residual"):
                linked = [*linked, node.inputs[-1], node.output]
        elif is_pixelwise(node):
            linked = [*node.inputs, node.output]
        linked = [v for v in linked if not v.is_constant and is_image(v)]
        if len(linked) > 1:
            found.join(linked)
    return [frozenset(group) for group in found.sets().values()]
