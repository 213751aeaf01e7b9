"""Pointwise convolutions on row-major maps: every setting, tails of pixels and of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from edgeconv import strategy
from edgeconv.layout import Layout
from edgeconv.schedules import family, planar_pointwise
from edgeconv.schedules.common import ceil_div
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.kernels import DEVICES, Kernels, device

FAMILY = family("planar_pointwise")
NCHW = Layout(1)
RELU = ("relu", ())


def task(conv: Conv2d, *, fused: bool = False) -> ConvTask:
    """The convolution on NCHW maps, alone or with all that can be fused."""
    return (
        ConvTask(conv, NCHW, NCHW, True, NCHW, RELU) if fused else ConvTask(conv, NCHW, NCHW, False)
    )


def add_settings(kernels: Kernels, work: ConvTask, most: int) -> None:
    """Up to `most` kernels from all over the space, every second fetching pixels ahead."""
    settings = list(planar_pointwise.candidates(work, kernels.device))
    assert all((knobs.rows > 0) == (work.conv.stride != (1, 1)) for knobs in settings)
    for number, knobs in enumerate(settings[:: ceil_div(len(settings), most)]):
        kernels.add(FAMILY, work, dataclasses.replace(knobs, ahead=number % 2))


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (1, 23), (9, 11)])
def test_every_setting(
    target: str, size: tuple[int, int], kernels_for: Callable[[str], Kernels]
) -> None:
    """Output channels and pixels that no tile divides; two groups, two images."""
    kernels = kernels_for(target)
    work = task(Conv2d(2, 10, *size, 22, (1, 1), groups=2), fused=True)
    add_settings(kernels, work, 10)
    kernels.check()


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize(
    ("size", "stride"),
    [((7, 7), (2, 2)), ((8, 38), (2, 2)), ((9, 67), (3, 2)), ((11, 6), (2, 1)), ((31, 1), (1, 2))],
)
def test_every_setting_of_strided_inputs(
    target: str,
    size: tuple[int, int],
    stride: tuple[int, int],
    kernels_for: Callable[[str], Kernels],
) -> None:
    """Rows narrower and wider than a vector, and panels that overlap."""
    kernels = kernels_for(target)
    work = task(Conv2d(2, 10, *size, 22, (1, 1), stride, groups=2), fused=True)
    add_settings(kernels, work, 8)
    kernels.check()


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("fused", [False, True])
def test_default_settings(target: str, fused: bool, kernels_for: Callable[[str], Kernels]) -> None:
    kernels = kernels_for(target)
    cpu = kernels.device
    for c, k, h, w, g in (
        (1, 1, 4, 4, 1),
        (3, 40, 13, 17, 1),
        (64, 5, 8, 8, 1),
        (30, 60, 5, 7, 3),
        (12, 12, 6, 6, 12),
        (17, 33, 31, 1, 1),
    ):
        work = task(Conv2d(1, c, h, w, k, (1, 1), groups=g), fused=fused)
        kernels.add(FAMILY, work, FAMILY.default_knobs(work, cpu))
    kernels.check()


def test_two_threads() -> None:
    two = device("host", 2)
    kernels = Kernels(two)
    for groups, stride in ((1, (1, 1)), (1, (2, 2)), (5, (2, 2))):
        work = task(Conv2d(2, 70, 37, 41, 50, (1, 1), stride, groups=groups), fused=True)
        settings = list(planar_pointwise.candidates(work, two))
        for knobs in (FAMILY.default_knobs(work, two), *settings[:: ceil_div(len(settings), 6)]):
            kernels.add(FAMILY, work, knobs)
    kernels.check()


@pytest.mark.parametrize(
    ("target", "channels", "size", "outputs", "copied"),
    [
        ("x86-avx512", 32, 52, 32, False),
        ("x86-avx2", 64, 56, 64, False),
        ("raspberry-pi-4", 32, 52, 32, False),
        ("x86-avx2", 64, 32, 64, True),  # planes of 4 KiB: one set of the L1 cache for all
        ("raspberry-pi-4", 64, 32, 64, True),
        ("x86-avx2", 512, 14, 512, True),  # a tile's pixels overfill the L1 cache
    ],
)
def test_panels_are_for_planes_that_collide(
    target: str, channels: int, size: int, outputs: int, copied: bool
) -> None:
    work = task(Conv2d(1, channels, size, size, outputs, (1, 1)))
    assert FAMILY.default_knobs(work, device(target)).copied is copied


def test_panels_are_for_all_threads() -> None:
    """A whole map in one panel would leave one of two cores with nothing to do."""
    work = task(Conv2d(1, 32, 20, 32, 45, (1, 1), (2, 2)))
    alone, shared = (
        {knobs.rows for knobs in planar_pointwise.candidates(work, device("x86-avx512", cores))}
        for cores in (1, 2)
    )
    assert 10 in alone
    assert shared == {1, 5}


def test_weights_are_packed_in_the_order_they_are_read() -> None:
    rng = np.random.default_rng(0)
    work = task(Conv2d(1, 6, 5, 5, 14, (1, 1), groups=2))
    weight = rng.standard_normal((14, 3, 1, 1)).astype(np.float32)
    knobs = planar_pointwise.Knobs(4, 2, 3, 1)
    packed = planar_pointwise.pack_weights(work, knobs, weight)
    assert packed.shape == (2, 3, 3, 3)  # group, run of three channels, input channel, channel
    for g, run, c, i in np.ndindex(*packed.shape):
        channel = g * 7 + min(run * 3, 4) + i  # the last run overlaps
        assert packed[g, run, c, i] == weight[channel, c, 0, 0]


@pytest.mark.parametrize(
    ("conv", "data", "reason"),
    [
        (Conv2d(1, 4, 9, 9, 4, (3, 3)), NCHW, "only 1x1"),
        (Conv2d(1, 4, 9, 9, 4, (1, 1), (1, 3)), NCHW, "horizontal stride"),
        (Conv2d(1, 4, 3, 9, 4, (1, 1), (3, 2)), Layout(1), "fewer pixels"),
        (Conv2d(1, 4, 9, 9, 4, (1, 1)), Layout(4), "only NCHW"),
        (Conv2d(1, 4, 9, 9, 4, (1, 1)), Layout(1, (1, 0, 0, 0)), "without halo"),
        (Conv2d(1, 4, 1, 3, 4, (1, 1)), NCHW, "fewer pixels"),
        (Conv2d(1, 4, 9, 9, 4, (1, 1), groups=2, input_shuffle=2), NCHW, "shuffled"),
    ],
)
def test_says_why_not(conv: Conv2d, data: Layout, reason: str) -> None:
    refusal = planar_pointwise.supports(ConvTask(conv, data, NCHW), device("x86-avx2"))
    assert refusal is not None
    assert reason in refusal.reason


def test_wins_between_nchw_maps() -> None:
    """No other family can use vectors there, so the strategy takes it."""
    choice = strategy.choose(task(Conv2d(1, 64, 28, 28, 64, (1, 1))), device("x86-avx512"))
    assert choice.family is FAMILY
