"""Winograd convolution: its matrices, its error, what it refuses, and how to switch it off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm.sym
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

import edgeconv
from edgeconv import strategy
from edgeconv.errors import EdgeconvError
from edgeconv.layout import Layout
from edgeconv.schedules import family, winograd, winograd_fetch, winograd_transforms
from edgeconv.schedules.winograd_space import Knobs, Space
from edgeconv.targets import Device, load
from edgeconv.workload import Conv2d, ConvTask
from tests.e2e.models import ModelMaker, assert_close, convolution, expected
from tests.schedules import kernels
from tests.schedules.kernels import Data, Kernels, device
from tests.schedules.test_families import RELU, layouts

SAME = (1, 1, 1, 1)
VARIANTS = [(m, r) for r, tiles in winograd_transforms.TILES.items() for m in tiles]


def task(conv: Conv2d, block: int = 16) -> ConvTask:
    return ConvTask(conv, Layout(block, conv.padding), Layout(block))


@pytest.mark.parametrize(("m", "r"), VARIANTS)
def test_matrices_compute_a_convolution(m: int, r: int) -> None:
    """One tile, in float64, to the last digits."""
    a, g, b = winograd_transforms.matrices(m, r)
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal((m + r - 1, m + r - 1)), rng.standard_normal((r, r))
    tile = a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T
    wanted = [[(d[i : i + r, j : j + r] * w).sum() for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(tile, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("conv", "block", "reason"),
    [
        (Conv2d(1, 64, 9, 9, 64, (6, 6)), 16, "square kernels"),
        (Conv2d(1, 64, 9, 9, 64, (3, 5)), 16, "square kernels"),
        (Conv2d(1, 64, 19, 19, 64, (5, 5), stride=(2, 2), dilation=(2, 2)), 16, "dilation"),
        (Conv2d(1, 64, 19, 19, 64, (5, 5), stride=(1, 2)), 16, "stride"),
        (Conv2d(1, 64, 8, 9, 64, (7, 7), stride=(2, 2)), 16, "smaller than 3x3"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), stride=(2, 2)), 16, "stride"),
        (Conv2d(1, 64, 3, 9, 64, (3, 3)), 16, "smaller"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), dilation=(4, 1)), 16, "smaller"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), groups=32), 16, "2 output channels"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3), groups=2, input_shuffle=2), 16, "shuffled"),
        (Conv2d(1, 64, 9, 9, 64, (3, 3)), 1, "side by side"),
    ],
)
def test_refuses_what_it_cannot_do(conv: Conv2d, block: int, reason: str) -> None:
    mismatch = winograd.supports(task(conv, block), load("x86-avx512"))
    assert mismatch is not None
    assert reason in mismatch.reason


@pytest.mark.parametrize(("r", "stride"), [(2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (5, 2), (7, 2)])
def test_chosen_for_wide_layers_unless_numerics_are_exact(r: int, stride: int) -> None:
    device = load("x86-avx512")
    for groups in (1, 2, 4):
        window = dict(stride=(stride, stride), padding=(r // 2,) * 4)
        conv = Conv2d(1, 72, 56, 56, 72, (r, r), **window, groups=groups)
        assert strategy.choose(task(conv), device).family is family("winograd")
        exact = strategy.choose(task(conv), device, exact=True)
        assert exact.family is not family("winograd")
        assert ("winograd", "numerics are to be exact") in exact.refused


# results


@st.composite
def tasks(draw: st.DrawFn, cpu: Device) -> tuple[ConvTask, winograd.Knobs]:
    """Any task the family takes, with any legal knobs."""
    groups = draw(st.integers(1, 5))
    lanes = cpu.lanes
    least = 1 if groups == 1 else max(1, lanes // 4)
    kpg = draw(st.integers(least, 3 * lanes) | st.sampled_from((lanes, 2 * lanes)))
    kernel = draw(st.sampled_from((2, 3, 4, 5, 7)))
    stride = draw(st.sampled_from((1, 2))) if kernel >= 5 else 1
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3))) if stride == 1 else (1, 1)
    cpg = kpg if draw(st.booleans()) else draw(st.integers(1, 3 * lanes))
    top, left, bottom, right = (draw(st.integers(0, 3)) for _ in range(4))
    # at least three rows and columns of every phase of the dilation, but for the padding
    least_height, least_width = ((kernel - 1) * d + 1 + stride * (3 * d - 1) for d in dilation)
    height = draw(st.integers(least_height, least_height + 17)) - min(1, top + bottom)
    width = draw(st.integers(least_width, least_width + 17)) - min(1, left + right)
    batch, padding = draw(st.integers(1, 2)), (top, left, bottom, right)
    sizes = (groups * cpg, height, width, groups * kpg, (kernel, kernel))
    conv = Conv2d(batch, *sizes, (stride, stride), padding, dilation, groups)
    halo = (0, 0, 0, 0)
    if draw(st.booleans()):
        halo = (1, 0, 2, 1)
    legal = []
    for data, out in layouts(conv, lanes, extra=draw(st.integers(0, 1))):
        residual = out.with_halo((0, 2, 1, 0)) if draw(st.booleans()) else None
        activation = RELU if draw(st.booleans()) else None
        fused = (draw(st.booleans()), residual, activation)
        found = ConvTask(conv, data, out.with_halo(halo), *fused)
        if winograd.supports(found, cpu) is None:
            legal.append(found)
    found = draw(st.sampled_from(legal))
    knobs = st.sampled_from(list(winograd.candidates(found, cpu)))
    return found, draw(st.just(family("winograd").default_knobs(found, cpu)) | knobs)


def check_drawn(target: str, examples: int) -> None:
    cpu = dataclasses.replace(device(target), load_ports=1)  # vectors of half the length, too
    # kernels for small caches fetch ahead, and in NHWC take the map in bands
    small, banded = (dataclasses.replace(cpu, l2_kib=kib) for kib in (1, 8))
    if not cpu.is_native:
        pytest.skip(f"this machine can't run code for {target}")

    @settings(max_examples=examples)
    @given(tasks(cpu) | tasks(small) | tasks(banded))
    def run(drawn: tuple[ConvTask, winograd.Knobs]) -> None:
        several = Kernels(cpu)
        several.add(family("winograd"), *drawn)
        several.check()

    run()


@pytest.mark.parametrize(("target", "examples"), [("host", 40), ("x86-avx2", 20), ("x86-sse4", 20)])
def test_any_task_with_any_knobs(target: str, examples: int) -> None:
    check_drawn(target, examples)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["host", "x86-avx2", "x86-sse4"])
def test_many_tasks_with_any_knobs(target: str) -> None:
    check_drawn(target, 500)


def test_padding_lanes_may_hold_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are transformed beside the channels, but never multiplied or stored over them."""
    monkeypatch.setattr(kernels, "PADDING_LANE", np.float32("nan"))
    host = device()
    several = Kernels(host)
    for channels, groups in ((3 * host.lanes // 2, 1), (5 * host.lanes + 4, 1)):
        conv = Conv2d(1, channels, 9, 10, channels, (3, 3), padding=SAME, groups=groups)
        blocked = Layout(host.lanes)
        found = ConvTask(conv, Layout(host.lanes, SAME), blocked, True, blocked)
        assert winograd.supports(found, host) is None
        several.add(family("winograd"), found, family("winograd").default_knobs(found, host))
    several.check()


def normal(conv: Conv2d) -> Data:
    """Normally distributed numbers, and the convolution in float64."""
    rng = np.random.default_rng(conv.in_channels)
    x = rng.standard_normal((1, conv.in_channels, conv.height, conv.width), np.float32)
    shape = (conv.out_channels, conv.in_channels_per_group, *conv.kernel_size)
    weight = rng.standard_normal(shape, np.float32)
    wanted = convolution(
        x.astype(np.float64),
        weight.astype(np.float64),
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
    )
    return Data(x, weight, np.zeros(0), np.zeros(0), wanted)


@pytest.mark.parametrize(
    ("side", "bound_64", "bound_256"), [(4, 1e-6, 2e-6), (6, 2e-6, 4e-6), (8, 7e-6, 1.3e-5)]
)
@pytest.mark.parametrize("channels", [64, 256])
def test_error_is_as_documented(
    channels: int, side: int, bound_64: float, bound_256: float
) -> None:
    """Relative to the largest output, random data; groups of 64 are as good as 64 channels."""
    host = device()
    several = Kernels(host)
    for tile, r in VARIANTS:
        if tile + r - 1 != side:
            continue
        padding = (r // 2,) * 4
        cases = [
            Conv2d(1, channels, 14, 18, 64, (r, r), padding=padding),
            Conv2d(1, 2 * channels, 14, 18, 64, (r, r), padding=padding, groups=2),
        ]
        if r in (3, 4):
            k = 2 * r - 1
            cases += [Conv2d(1, channels // 4, 27, 35, 64, (k, k), (2, 2), (r - 1,) * 4)]
        for conv in cases:
            found = task(conv, host.lanes)
            knobs = [k for k in winograd.candidates(found, host) if k.tile == tile]
            several.add(family("winograd"), found, knobs[0], normal(conv))
    several.check({64: bound_64, 256: bound_256}[channels])


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_error_stays_near_the_direct_sum(channels: int) -> None:
    """Random data: at most 5e-6 of the largest output, and through the public switch."""
    maker = ModelMaker(channels)
    y = maker.conv(maker.input("x", 1, channels, 14, 18), channels, 64, (3, 3), pads=SAME)
    model = maker.model(y)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, channels, 14, 18), np.float32)}
    for numerics in ("fast", "exact"):
        compiled = edgeconv.compile(model, threads=1, numerics=numerics)  # type: ignore[arg-type]
        assert_close(compiled.run(feeds), expected(model, feeds), 5e-6)


def test_unknown_numerics() -> None:
    maker = ModelMaker(0)
    model = maker.model(maker.conv(maker.input("x", 1, 4, 5, 5), 4, 4, (3, 3)))
    with pytest.raises(EdgeconvError, match="'fast' or 'exact'"):
        edgeconv.compile(model, numerics="sloppy")  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [5, 7, 57])
def test_the_last_window_does_not_widen_the_others(groups: int) -> None:
    """Groups of half a vector, an odd number of them: the last stands alone in its vector."""
    layout, channels = Layout(16), 8 * groups
    conv = Conv2d(1, channels, 12, 12, channels, (3, 3), groups=groups)
    task = ConvTask(conv, layout, layout)
    space = Space(task, Knobs(16, 4, 2, 1, 9, 9, 1))
    assert space.in_vectors == 1
    assert [space.in_base(w) for w in range(space.windows)] == list(range(0, channels, 16))


def test_groups_of_half_a_vector_where_long_vectors_run_in_halves() -> None:
    """Zen 4: whole vectors would multiply zeros half of the time. Wide groups keep them."""
    whole = load("x86-avx512")
    halves = dataclasses.replace(whole, fma_ports=1, load_ports=1)

    def lanes(channels: int, groups: int, device: Device) -> int:
        conv = Conv2d(1, channels, 40, 40, channels, (3, 3), (1, 1), SAME, groups=groups)
        default = family("winograd").default_knobs(task(conv), device)
        assert isinstance(default, Knobs)
        return default.lanes

    assert lanes(56, 7, halves) == 8
    assert lanes(56, 7, whole) == 16
    # 3.5 vectors a group are a tie (measured 0.97 to 1.01)
    assert lanes(64, 4, halves) == lanes(128, 2, halves) == 16


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_fetching_ahead_changes_nothing(cores: int) -> None:
    """Beyond the second-level cache, in blocks; the last block of a core has none behind it."""
    small = dataclasses.replace(device(cores=cores), l2_kib=1)
    several = Kernels(small)
    for channels, outs, groups, dilation in [(64, 64, 1, 1), (48, 96, 6, 1), (56, 56, 7, 3)]:
        padding = (dilation,) * 4
        dilations = (dilation, dilation)
        conv = Conv2d(1, channels, 28, 29, outs, (3, 3), (1, 1), padding, dilations, groups)
        block, halo = Layout(small.lanes), (1, 0, 2, 1)
        found = ConvTask(conv, Layout(small.lanes, padding), block.with_halo(halo), True, block)
        knobs = family("winograd").default_knobs(found, small)
        assert isinstance(knobs, Knobs)
        assert knobs.ahead
        several.add(family("winograd"), found, knobs)
    several.check()


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_bands_change_nothing(cores: int) -> None:
    """In NHWC beyond the second-level cache; numbers of blocks that bands don't divide."""
    small = dataclasses.replace(device(cores=cores), l2_kib=32)
    several, found = Kernels(small), set()
    for channels, groups, height, dilation in [(56, 8, 31, 1), (35, 5, 40, 2), (60, 3, 26, 1)]:
        conv = Conv2d(
            *(1, channels, height, 29, channels, (3, 3), (1, 1), (dilation,) * 4),
            *((dilation, dilation), groups),
        )
        layout = Layout(channels)
        task = ConvTask(conv, Layout(channels, conv.padding), layout, True, layout, RELU)
        row = family("winograd")
        legal = [k for k in winograd.candidates(task, small) if k.bands > 1]
        assert all(k.ahead for k in legal)
        for knobs in legal[:: max(1, len(legal) // 4)]:
            several.add(row, task, knobs)
            found.add(winograd.Space(task, knobs).blocks % knobs.bands == 0)
    several.check()
    assert found == {True, False}


def test_the_block_that_is_fetched_next() -> None:
    """By window, part and first tile: the part's next; the next part's first; the next band's."""
    conv = Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1), groups=2)
    task = ConvTask(conv, Layout(16, conv.padding), Layout(16), True)
    simplify = tvm.sym.Analyzer().simplify

    def of(knobs: Knobs, *at: int) -> tuple[int, int]:
        numbers = (tirx.const(number, "int32") for number in at)
        window, first = winograd_fetch.next_block(Space(task, knobs), *numbers)
        return int(simplify(window)), int(simplify(first))

    halves = Knobs(16, 4, 1, 2, 7, 7, 1, True)
    assert of(halves, 0, 0, 7) == (0, 14)
    assert of(halves, 0, 0, 42) == (0, 0)  # part 1 of the same window
    assert of(halves, 0, 1, 42) == (1, 0)
    assert of(halves, 1, 1, 42) == (1, 0)  # behind the last there is none
    assert of(dataclasses.replace(halves, bands=4), 1, 0, 7) == (1, 21)
