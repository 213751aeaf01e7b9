"""Strassen's product, on row-major maps and in channel blocks: settings, tails, odd numbers of
channels, rounding.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest

from edgeconv import strategy
from edgeconv.layout import Layout
from edgeconv.schedules import Family, channel_strassen, family, planar_strassen
from edgeconv.schedules.common import ceil_div
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.kernels import DEVICES, Kernels, device, whole_numbers

PLANAR, CHANNELS = family("planar_strassen"), family("channel_strassen")
NCHW = Layout(1)
RELU = ("relu", ())
EXACT = 0.0  # sums and differences of small whole numbers are


def task(conv: Conv2d, data: Layout = NCHW, out: Layout = NCHW, *, fused: bool = True) -> ConvTask:
    """The convolution alone, or with all that can be fused."""
    if not fused:
        return ConvTask(conv, data, out, False)
    return ConvTask(conv, data, out, True, Layout(out.block), RELU)


def in_channels(conv: Conv2d) -> ConvTask:
    """The convolution in NHWC."""
    return task(conv, Layout(conv.in_channels), Layout(conv.out_channels), fused=False)


def add_settings(kernels: Kernels, of: Family, work: ConvTask, most: int) -> None:
    """Up to `most` kernels from all over the space, every second fetching pixels ahead."""
    settings = list(of.candidates(work, kernels.device))
    for number, knobs in enumerate(settings[:: ceil_div(len(settings), most)]):
        kernels.add(of, work, dataclasses.replace(knobs, ahead=number % 2))


def workload(rng: random.Random, of: Family) -> ConvTask:
    """Any task the schedule may take: odd numbers of channels, groups or strides, halos, blocks."""
    size, batch = (rng.randint(1, 20), rng.randint(2, 20)), rng.randint(1, 2)
    inputs, outputs = (rng.choice((16, 17, 24, 32, 35, 40, 48, 57, 64, 81)) for _ in range(2))
    halo = rng.choice(((0, 0, 0, 0), (0, 0, 0, 0), (1, 0, 2, 1)))
    if of is PLANAR:
        groups, stride, layouts = rng.choice((1, 1, 2)), (1, 1), (NCHW, NCHW)
    else:
        groups, stride = 1, (rng.randint(1, 3), rng.randint(1, 3))
        blocks = [
            rng.choice([c, *(b for b in (8, 16, 32) if c % b == 0)]) for c in (inputs, outputs)
        ]
        layouts = Layout(blocks[0], halo), Layout(blocks[1], rng.choice((halo, (0, 0, 0, 0))))
    conv = Conv2d(batch, inputs * groups, *size, outputs * groups, (1, 1), stride, groups=groups)
    residual = rng.choice((None, Layout(layouts[1].block)))
    return ConvTask(conv, *layouts, rng.random() < 0.7, residual, rng.choice((None, RELU)))


def check(of: Family, kernels: Kernels, seed: int, count: int) -> None:
    """The default and one other setting of `count` tasks that the schedule takes; every second one
    fetches pixels ahead.
    """
    rng = random.Random(seed)
    while count:
        work = workload(rng, of)
        if of.supports(work, kernels.device) is None:
            count -= 1
            legal = list(of.candidates(work, kernels.device))
            for knobs in {of.default_knobs(work, kernels.device), rng.choice(legal)}:
                kernels.add(of, work, dataclasses.replace(knobs, ahead=count % 2))
    kernels.check(EXACT)


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("of", [PLANAR, CHANNELS], ids=lambda f: f.name)
def test_random_workloads(of: Family, target: str, kernels_for: Callable[[str], Kernels]) -> None:
    check(of, kernels_for(target), 1, 5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("of", [PLANAR, CHANNELS], ids=lambda f: f.name)
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_random_workloads(
    of: Family, seed: int, target: str, kernels_for: Callable[[str], Kernels]
) -> None:
    """500 tasks on each target."""
    check(of, kernels_for(target), seed, 50)


def test_two_threads() -> None:
    two = device("host", 2)
    kernels = Kernels(two)
    add_settings(kernels, PLANAR, task(Conv2d(2, 70, 37, 41, 50, (1, 1))), 3)
    conv = Conv2d(2, 72, 37, 41, 50, (1, 1))
    add_settings(kernels, CHANNELS, task(conv, Layout(8), Layout(50)), 3)
    kernels.check(EXACT)


@pytest.mark.parametrize(("channels", "bound"), [(64, 1.5e-6), (256, 2.5e-6)])
@pytest.mark.parametrize("of", [PLANAR, CHANNELS], ids=lambda f: f.name)
def test_rounds_little_more_than_the_plain_sum(
    of: Family, channels: int, bound: float, kernels_for: Callable[[str], Kernels]
) -> None:
    """As docs/how-it-works.md says, relative to the largest output of random data."""
    kernels = kernels_for("host")
    conv = Conv2d(1, channels, 16, 16, 64, (1, 1))
    work = task(conv, fused=False) if of is PLANAR else in_channels(conv)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, channels, 16, 16)).astype(np.float32)
    weight = rng.standard_normal((64, channels, 1, 1)).astype(np.float32)
    exact = np.einsum("kc,nchw->nkhw", weight[:, :, 0, 0].astype(float), x.astype(float))
    data = dataclasses.replace(whole_numbers(work), x=x, weight=weight, wanted=exact)
    kernels.add(of, work, of.default_knobs(work, kernels.device), data)
    kernels.check(bound)


def test_weights_are_left_factors_of_row_major_maps() -> None:
    """In the order of the products; of an odd number of channels, one half begins with zeros."""
    rng = np.random.default_rng(0)
    work = task(Conv2d(1, 34, 9, 9, 38, (1, 1), groups=2))
    weight = rng.standard_normal((38, 17, 1, 1)).astype(np.float32)
    packed = PLANAR.pack_weights(work, planar_strassen.Knobs(4, 1, 4, 1, 4), weight)
    assert packed.shape == (2, 3, 7, 9, 4)  # group, run, product, input channel, output channel
    for g, run, c, i in np.ndindex(2, 3, 9, 4):
        k = min(run * 4, 6) + i  # the last run overlaps
        block = weight[g * 19 : (g + 1) * 19, :, 0, 0]
        a11, a21 = block[k, c], block[9 + k, c]
        a12, a22 = (block[k, 8 + c], block[9 + k, 8 + c]) if c else (0, 0)
        wanted = (a11, a12, a21 + a22 - a11, a11 - a21, -a22, a21 + a22, a12 + a11 - a21 - a22)
        np.testing.assert_allclose(packed[g, run, :, c, i], wanted, rtol=0, atol=1e-6)


def test_weights_are_right_factors_in_channel_blocks() -> None:
    rng = np.random.default_rng(0)
    work = in_channels(Conv2d(1, 17, 9, 9, 22, (1, 1)))
    weight = rng.standard_normal((22, 17, 1, 1)).astype(np.float32)
    packed = CHANNELS.pack_weights(work, channel_strassen.Knobs(4, 3, 2, 1), weight)
    assert packed.shape == (2, 7, 9, 2, 4)  # tile, product, input channel, vector, lane
    for tile, c, m, lane in np.ndindex(2, 9, 2, 4):
        vector = min(tile * 2, 1) + m  # of three; the last tile overlaps
        k, later = (min(v * 4, 18) + lane for v in (vector, vector + 3))
        b11, b12 = weight[k, c, 0, 0], weight[later, c, 0, 0]
        b21, b22 = (weight[k, 8 + c, 0, 0], weight[later, 8 + c, 0, 0]) if c else (0, 0)
        t1 = b12 - b11
        wanted = (b11, b21, b22 - t1, b22 - b12, b21 - b22 + t1, t1, b22)
        np.testing.assert_allclose(packed[tile, :, c, m, lane], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("of", "work", "reason"),
    [
        (PLANAR, task(Conv2d(1, 64, 9, 9, 64, (3, 3))), "only 1x1"),
        (PLANAR, task(Conv2d(1, 64, 9, 9, 64, (1, 1), (2, 2))), "stride of 1"),
        (PLANAR, task(Conv2d(1, 64, 9, 9, 64, (1, 1)), Layout(16)), "only NCHW"),
        (PLANAR, task(Conv2d(1, 64, 3, 5, 64, (1, 1))), "two vectors"),
        (PLANAR, task(Conv2d(1, 64, 9, 9, 64, (1, 1), groups=8)), "channels"),
        (CHANNELS, task(Conv2d(1, 64, 9, 9, 64, (1, 1))), "channel blocks"),
        (CHANNELS, in_channels(Conv2d(1, 64, 9, 9, 64, (1, 1), groups=2)), "without groups"),
        (CHANNELS, in_channels(Conv2d(1, 64, 1, 1, 64, (1, 1))), "too few pixels"),
        (CHANNELS, in_channels(Conv2d(1, 64, 9, 9, 64, (1, 1), input_shuffle=2)), "shuffled"),
        (CHANNELS, in_channels(Conv2d(1, 8, 9, 9, 64, (1, 1))), "fewer than"),
        (CHANNELS, task(Conv2d(1, 40, 9, 9, 64, (1, 1)), Layout(16), Layout(16)), "fill blocks"),
    ],
)
def test_says_why_not(of: Family, work: ConvTask, reason: str) -> None:
    refusal = of.supports(work, device("x86-avx2"))
    assert refusal is not None
    assert reason in refusal.reason


@pytest.mark.parametrize("of", [PLANAR, CHANNELS], ids=lambda f: f.name)
def test_wide_products_take_it_unless_sums_are_to_be_exact(of: Family) -> None:
    conv, on = Conv2d(1, 512, 28, 28, 512, (1, 1)), device("x86-avx512")
    work = task(conv) if of is PLANAR else in_channels(conv)
    assert strategy.choose(work, on).family is of
    assert strategy.choose(work, on, exact=True).family.exact


def test_narrow_products_do_not() -> None:
    choice = strategy.choose(task(Conv2d(1, 32, 56, 56, 32, (1, 1))), device("x86-avx512"))
    assert choice.family is family("planar_pointwise")
