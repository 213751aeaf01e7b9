"""The machine code of every family for every ARM device: what its hottest loop loads, stores and
multiplies, and how near llvm-mca sees it to the core's multiply-add rate.

The lists of what a loop may do come from its register tile, not from a compiler's output.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from edgeconv import schedules
from edgeconv.layout import Layout
from edgeconv.schedules.padding import columns_inside
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules import assembly
from tests.schedules.assembly import NEON, matching
from tests.schedules.kernels import device

PACK, LANES, WINOGRAD = "grouped_spatial_pack", "lane_groups", "winograd"
TARGETS = (
    *("raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5"),
    *("jetson-nano", "jetson-xavier-nx", "jetson-orin-nano"),
)


def square(
    channels: int, size: int, out: int, kernel: int = 3, *, groups: int = 1, **options: Any
) -> Conv2d:
    """A square convolution that pads to keep the size (before its stride)."""
    dilation, stride = options.get("dilation", 1), options.get("stride", 1)
    padding = (kernel // 2 * dilation,) * 4
    window = ((kernel, kernel), (stride, stride), padding, (dilation, dilation))
    return Conv2d(1, channels, size, size, out, *window, groups)


CASES: dict[str, tuple[str, Conv2d]] = {
    "dense 3x3": (PACK, square(64, 28, 64)),
    "dense 3x3, stride 2": (PACK, square(64, 28, 128, stride=2)),
    "dense 3x3, odd channels": (PACK, square(37, 14, 43)),
    "dilated 3x3": (PACK, square(64, 28, 64, dilation=2)),
    "pointwise": (PACK, square(128, 14, 128, 1)),
    "pointwise, odd channels": (PACK, square(37, 14, 43, 1)),
    "32 a group": (PACK, square(128, 28, 128, groups=4)),
    "8 a group": (PACK, square(64, 28, 64, groups=8)),
    "6 in, 12 out a group": (PACK, square(36, 28, 72, groups=6)),
    "4 a group": (PACK, square(64, 28, 64, groups=16)),
    "3 a group": (PACK, square(60, 28, 60, groups=20)),
    "2 a group": (LANES, square(64, 28, 64, groups=32)),
    "depthwise 3x3": (LANES, square(64, 28, 64, groups=64)),
    "depthwise 3x3, odd channels": (LANES, square(37, 28, 37, groups=37)),
    "depthwise 3x3, stride 2": (LANES, square(64, 28, 64, groups=64, stride=2)),
    "depthwise 3x3, dilated": (LANES, square(64, 28, 64, groups=64, dilation=2)),
    "depthwise 5x5": (LANES, square(64, 28, 64, 5, groups=64)),
    "first layer 7x7, NCHW": (PACK, square(3, 224, 64, 7, stride=2)),
    "first layer 3x3, NCHW": (PACK, square(3, 224, 32, 3, stride=2)),
    "Winograd's products": (WINOGRAD, square(64, 28, 64)),
}


@functools.cache
def kernel(name: str, target: str) -> tuple[Any, str]:
    """The default knobs of a case and its assembly."""
    (family_name, conv), cpu = CASES[name], device(target)
    data = Layout(1 if conv.in_channels == 3 else cpu.lanes, conv.padding)
    task = ConvTask(conv, data, Layout(cpu.lanes), True, None, ("relu", ()))
    family = schedules.family(family_name)
    assert family.supports(task, cpu) is None
    knobs = family.default_knobs(task, cpu)
    return knobs, assembly.compiled(family, task, knobs, cpu)


def tile_work(name: str, knobs: Any) -> tuple[int, int]:
    """(multiply-adds, vectors or scalars read) of one pass through the innermost loop."""
    family_name, conv = CASES[name]
    if family_name == WINOGRAD:
        return knobs.rows * knobs.vectors, knobs.rows + knobs.vectors
    taps = conv.kernel_size[1] if knobs.unroll_kw else 1
    stride, dilation = conv.stride[1], conv.dilation[1]
    row = {j * stride + k * dilation for j in range(knobs.columns) for k in range(taps)}
    read = knobs.rows * len(row)
    met = sum(len(columns_inside(conv, knobs.columns, k)) for k in range(taps))
    tile = knobs.rows * (met if knobs.unroll_kw else knobs.columns)
    if family_name == LANES:
        return tile * conv.in_channels_per_group, read + taps * conv.in_channels_per_group
    return tile * knobs.vectors * knobs.quad, read + taps * knobs.vectors * knobs.quad


def registers_loaded(lines: list[str]) -> int:
    """Vector registers that loads fill; pair loads count twice."""
    loads = [x for x in matching(lines, assembly.LOAD) if matching([x.split("[")[0]], NEON.vector)]
    return sum(2 if x.startswith("\tldp") else 1 for x in loads)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_hot_loop(name: str, target: str) -> None:
    knobs, text = kernel(name, target)
    lines = assembly.hottest(text, NEON) if CASES[name][0] != WINOGRAD else products(text)
    fmas, most_loads = tile_work(name, knobs)
    found = len(matching(lines, NEON.fma))
    passes = found // fmas  # LLVM may unroll short loops
    assert passes >= 1, (knobs, found)
    assert found == passes * fmas, (knobs, found)
    assert registers_loaded(lines) <= passes * most_loads, (knobs, registers_loaded(lines))
    assert not matching(lines, assembly.STORE), knobs
    assert not matching(lines, NEON.stack), knobs
    assert not matching(lines, NEON.call), knobs


def products(text: str) -> list[str]:
    """The loop of Winograd's matrix products: the only one that multiplies by element."""
    loops = assembly.innermost_loops(text)
    return max(loops, key=lambda lines: len(matching(lines, assembly.BY_ELEMENT)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [n for n, (family, _) in CASES.items() if family == PACK])
def test_broadcasts_are_free(name: str, target: str) -> None:
    """Multiply-adds take their pixel by element; with quads all do, and few others broadcast."""
    knobs, text = kernel(name, target)
    lines = assembly.hottest(text, NEON)
    fmas, by_element = (len(matching(lines, p)) for p in (NEON.fma, assembly.BY_ELEMENT))
    assert not matching(lines, r"\tdup"), knobs
    if knobs.quad > 1:
        assert by_element == fmas, knobs
    else:
        assert by_element >= 0.8 * fmas, knobs


def test_quads_where_channels_lie_side_by_side() -> None:
    for name, (family, conv) in CASES.items():
        if family == PACK:
            knobs, _ = kernel(name, "raspberry-pi-4")
            assert knobs.quad == (4 if conv.in_channels_per_group % 4 == 0 else 1), name


# llvm-mca's models assume that every load hits the L1 cache. LLVM 14 has the A57's model for the
# A72 and the A76 as well (one multiply-add a cycle, where the A76 does two), later versions have an
# A76-like one: the bound is the model's own rate, measured, not the device's `fma_ports`.
MODELLED = ("raspberry-pi-4", "raspberry-pi-5", "jetson-nano")
LEAST = 0.8  # of the model's multiply-add rate


@pytest.mark.parametrize("target", MODELLED)
@pytest.mark.parametrize("name", CASES)
def test_throughput(name: str, target: str) -> None:
    """The loop runs at the rate of its vector instructions: multiply-adds, and in narrow groups the
    permutes that share their pipes. Loads, 15 for 14 multiply-adds at worst, hardly add to that.
    """
    _, text = kernel(name, target)
    cpu: Device = device(target)
    lines = assembly.hottest(text, NEON) if CASES[name][0] != WINOGRAD else products(text)
    fmas = len(matching(lines, NEON.fma))
    busy = len(matching(lines, assembly.ARITHMETIC))
    if name != "2 a group":
        assert busy == fmas
    ideal = busy / assembly.model_fma_rate(cpu)
    cycles = assembly.cycles(tuple(lines), cpu)
    assert cycles * LEAST <= ideal, f"{cycles:.1f} cycles for {fmas} multiply-adds"


@pytest.mark.parametrize("target", MODELLED)
@pytest.mark.parametrize("channels", [(256, 192), (37, 43)])
@pytest.mark.parametrize("name", ["planar_strassen", "channel_strassen"])
def test_strassen_products(name: str, channels: tuple[int, int], target: str) -> None:
    """All loops that multiply: by element (weights of a last channel may be broadcast by their
    load), nothing stored or spilled, and at the rate of the multiply-adds.
    """
    (inputs, outputs), cpu, family = channels, device(target), schedules.family(name)
    layouts = (1, 1) if name == "planar_strassen" else channels
    task = ConvTask(square(inputs, 28, outputs, 1), *map(Layout, layouts), True)
    text = assembly.compiled(family, task, family.default_knobs(task, cpu), cpu)
    loops = [x for x in assembly.innermost_loops(text) if matching(x, NEON.fma)]
    assert len(loops) >= 7
    for lines in loops:
        fmas, by_element = (len(matching(lines, p)) for p in (NEON.fma, assembly.BY_ELEMENT))
        assert fmas == len(matching(lines, assembly.ARITHMETIC))
        assert by_element >= (1 if name == "channel_strassen" else 0.8) * fmas
        for unwanted in (assembly.STORE, NEON.stack, NEON.call, r"\tdup"):
            assert not matching(lines, unwanted)
        cycles = assembly.cycles(tuple(lines), cpu)
        assert cycles * LEAST <= fmas / assembly.model_fma_rate(cpu)


def test_the_counters_count() -> None:
    lines = ["\tldp\tq1, q2, [x3]", "\tldr\ts4, [x5, #8]", "\tldr\tx6, [sp, #8]"]
    lines += ["\tstr\tq7, [sp]", "\tfmla\tv8.4s, v1.4s, v4.s[0]", "\tuzp1\tv9.4s, v1.4s, v2.4s"]
    assert registers_loaded(lines) == 3
    counts = [
        len(matching(lines, p))
        for p in (assembly.LOAD, assembly.STORE, NEON.stack, NEON.fma, assembly.BY_ELEMENT)
    ]
    assert counts == [3, 1, 2, 1, 1]
    assert len(matching(lines, assembly.ARITHMETIC)) == 2
