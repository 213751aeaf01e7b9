"""Taps that read only padding are not multiplied: rubbish in the halo does not reach the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeconv.layout import Layout
from edgeconv.schedules import family
from edgeconv.schedules.padding import columns_inside, columns_met, peelings, row_inside, rows_met
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules import kernels as kernels_module
from tests.schedules.kernels import DEVICES, Kernels, device

SMALL = Conv2d(1, 32, 7, 7, 32, (3, 3), padding=(1, 1, 1, 1))
WIDE = Conv2d(1, 32, 9, 12, 32, (3, 3), padding=(4, 6, 4, 6), dilation=(4, 6))
STRIDED = Conv2d(1, 32, 9, 7, 32, (5, 4), (2, 3), (3, 2, 2, 3))


def inside(conv: Conv2d, axis: int, output: int, tap: int) -> bool:
    """Whether a tap of an output pixel reads the image: the definition."""
    place = output * conv.stride[axis] + tap * conv.dilation[axis] - conv.padding[axis]
    return 0 <= place < (conv.height, conv.width)[axis]


@pytest.mark.parametrize("conv", [SMALL, WIDE, STRIDED])
def test_shares_of_single_outputs_are_those_of_the_definition(conv: Conv2d) -> None:
    shares = []
    for axis, outputs in enumerate((conv.out_height, conv.out_width)):
        pairs = [(o, t) for o in range(outputs) for t in range(conv.kernel_size[axis])]
        shares.append(sum(inside(conv, axis, *pair) for pair in pairs) / len(pairs))
    assert rows_met(conv, 1) == pytest.approx(shares[0])
    assert columns_met(conv, conv.out_width, True) == pytest.approx(shares[1])
    for kw in range(conv.kernel_size[1]):
        met = [j for j in range(conv.out_width) if inside(conv, 1, j, kw)]
        assert columns_inside(conv, conv.out_width, kw) == tuple(met)


def test_a_tile_skips_only_what_none_of_its_outputs_reads() -> None:
    assert rows_met(SMALL, 2) == 1  # every pair of rows meets the image with every tap
    assert row_inside(SMALL, 2, 0, 0) is None
    assert columns_met(SMALL, 7, False) == 1
    assert 0 < columns_met(WIDE, 3, False) < 1


def poisoned(conv: Conv2d, name: str, knobs: dict[str, Any], monkeypatch: Any) -> None:
    """Check a kernel on a buffer with infinities around the image."""
    task = ConvTask(conv, Layout(16, conv.padding), Layout(16), True)
    host = dataclasses.replace(device("x86-avx512"), cores=1)
    if not host.is_native:
        pytest.skip("needs AVX-512")
    chosen = family(name)
    setting = next(
        k
        for k in chosen.candidates(task, host)
        if all(getattr(k, field) == value for field, value in knobs.items())
    )
    pack = kernels_module.pack

    def with_infinities(x: np.ndarray, layout: Layout) -> np.ndarray:
        buffer = pack(x, layout)
        top, left, _, _ = layout.halo
        full = np.full_like(buffer, np.inf)
        within = (slice(None), slice(None), slice(top, top + conv.height))
        image = (*within, slice(left, left + conv.width))
        full[image] = buffer[image]
        return full

    monkeypatch.setattr(kernels_module, "pack", with_infinities)
    kernels = Kernels(host)
    kernels.add(chosen, task, setting)
    kernels.check()


@pytest.mark.parametrize("conv", [SMALL, STRIDED], ids=str)
@pytest.mark.parametrize(("name", "conv_groups"), [("grouped_spatial_pack", 1), ("lane_groups", 8)])
def test_padding_is_not_read(
    conv: Conv2d, name: str, conv_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = dataclasses.replace(conv, groups=conv_groups)
    whole_row = {"rows": 1, "columns": conv.out_width, "unroll_kw": True}
    poisoned(conv, name, whole_row, monkeypatch)


@pytest.mark.parametrize("name", ["grouped_spatial_pack", "lane_groups"])
def test_tiles_beside_the_padding_skip_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dilation by 6 on 12 columns: tiles of 6 lie wholly inside or outside."""
    conv = dataclasses.replace(WIDE, groups=1 if name == "grouped_spatial_pack" else 8)
    poisoned(conv, name, {"rows": 1, "columns": 6}, monkeypatch)


@pytest.mark.parametrize("conv", [SMALL, WIDE, STRIDED], ids=str)
@pytest.mark.parametrize(("name", "conv_groups"), [("grouped_spatial_pack", 1), ("lane_groups", 8)])
def test_peeled_tiles_do_not_read_padding(
    conv: Conv2d, name: str, conv_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = dataclasses.replace(conv, groups=conv_groups)
    poisoned(conv, name, {"rows": 1, "peeled": True}, monkeypatch)


@pytest.mark.parametrize("columns", [1, 3, 5, 6])
@pytest.mark.parametrize("conv", [SMALL, WIDE, STRIDED])
def test_the_share_of_peeled_tiles_is_that_of_their_code(conv: Conv2d, columns: int) -> None:
    last = conv.out_width - columns
    if last < 0:
        pytest.skip("wider than the map")
    tiles = -(-conv.out_width // columns)
    outputs = [min(t * columns, last) + j for t in range(tiles) for j in range(columns)]
    taps = range(conv.kernel_size[1])
    share = sum(inside(conv, 1, o, kw) for o in outputs for kw in taps)
    found = columns_met(conv, columns, True, peeled=True)
    assert found == pytest.approx(share / (len(outputs) * len(taps)))


def test_peeling_must_leave_out_enough() -> None:
    cpu = device("x86-avx512")
    assert peelings(WIDE, 5, cpu) == (False, True)
    assert peelings(WIDE, 3, cpu) == (False,)  # its tiles lie inside or outside as a whole
    assert peelings(WIDE, WIDE.out_width, cpu) == (False,)  # done without kinds of tiles
    overlapping = dataclasses.replace(SMALL, height=16, width=16)  # 1 of 48 a border
    assert peelings(overlapping, 8, cpu) == (False, True)
    assert peelings(overlapping, 15, cpu) == (False,)  # the last tile computes 14 columns again
    assert peelings(WIDE, 5, device("raspberry-pi-4")) == (False,)


@pytest.mark.parametrize(("name", "groups"), [("grouped_spatial_pack", 1), ("lane_groups", 8)])
def test_peeled_settings_are_candidates_beside_others(name: str, groups: int) -> None:
    conv = dataclasses.replace(WIDE, groups=groups)
    task = ConvTask(conv, Layout(16, conv.padding), Layout(16))
    settings = list(family(name).candidates(task, device("x86-avx512")))
    peeled = [k for k in settings if k.peeled]
    assert peeled
    assert all(k.unroll_kw and k.columns < conv.out_width for k in peeled)
    tiles = {(k.lanes, k.rows, k.columns) for k in settings if not k.peeled}
    assert {(k.lanes, k.rows, k.columns) for k in peeled} <= tiles


@pytest.mark.parametrize("target", DEVICES)
def test_peeled_tiles_of_every_shape(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    """Several rows, blocks and NHWC, overlapping last tiles, kinds that read nothing of a tap."""
    kernels = kernels_for(target)
    if not kernels.device.memory_operands:
        pytest.skip("never peeled there")
    lanes = kernels.device.lanes
    for conv in (WIDE, STRIDED, dataclasses.replace(WIDE, batch=2, width=13, dilation=(2, 6))):
        for name, groups in (("grouped_spatial_pack", 2), ("lane_groups", 8)):
            grouped = dataclasses.replace(conv, groups=groups)
            for data, out in (
                (Layout(lanes, conv.padding), Layout(lanes)),
                (Layout(conv.in_channels, conv.padding), Layout(conv.out_channels)),
            ):
                task = ConvTask(grouped, data, out, True, None, ("relu", ()))
                chosen = family(name)
                if chosen.supports(task, kernels.device) is None:
                    found = [k for k in chosen.candidates(task, kernels.device) if k.peeled]
                    for knobs in found[:: len(found) // 3 + 1]:
                        kernels.add(chosen, task, knobs)
    assert len(kernels.jobs) > 8
    kernels.check()


LONE = [  # shapes without a halo: borders of every kind, tiles as wide as the map and narrower
    SMALL,
    STRIDED,
    Conv2d(1, 5, 9, 31, 18, (3, 3), padding=(1, 1, 1, 1)),
    Conv2d(2, 24, 8, 21, 40, (3, 5), (1, 2), (0, 2, 2, 1), groups=2),
    Conv2d(1, 3, 20, 26, 20, (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv2d(1, 17, 12, 17, 9, (2, 3), padding=(1, 2, 0, 2), dilation=(3, 2)),
    Conv2d(1, 6, 8, 14, 33, (3, 3)),
]


@pytest.mark.parametrize("target", DEVICES)
def test_without_a_halo(target: str, kernels_for: Callable[[str], Kernels]) -> None:
    """A row-major map is never read outside: the kernel sees nothing but the map."""
    chosen, kernels = family("grouped_spatial_pack"), kernels_for(target)
    for conv in LONE:
        for out in (Layout(kernels.device.lanes), Layout(conv.out_channels)):
            task = ConvTask(conv, Layout(1), out, True, None, ("relu", ()))
            if chosen.supports(task, kernels.device) is None:
                settings = list(chosen.candidates(task, kernels.device))
                for knobs in settings[:: len(settings) // 3 + 1]:
                    kernels.add(chosen, task, knobs)
    assert len(kernels.jobs) > 2 * len(LONE)
    kernels.check()


def test_without_a_halo_tiles_must_be_rows() -> None:
    task = ConvTask(SMALL, Layout(1), Layout(16))
    rows = {k.rows for k in family("grouped_spatial_pack").candidates(task, device("x86-avx512"))}
    assert rows == {1}
    window = {"kernel_size": (3, 5), "padding": (1, 94, 1, 94), "dilation": (1, 47)}
    many_borders = dataclasses.replace(SMALL, width=200, **window)
    task = ConvTask(many_borders, Layout(1), Layout(16))
    assert family("grouped_spatial_pack").supports(task, device("x86-avx512")) is not None
