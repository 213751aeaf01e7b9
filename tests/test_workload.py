"""Convolution workloads: sizes, kinds, and the shape grammar."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeconv.errors import ShapeError
from edgeconv.workload import Conv2d
from tests.e2e.models import convolution


@settings(max_examples=100)
@given(st.data())
def test_output_shape_is_that_of_a_real_convolution(data: st.DataObject) -> None:
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = data.draw(two), data.draw(two), data.draw(two)
    padding = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    size = [
        data.draw(st.integers(d * (k - 1) + 1, 12)) for d, k in zip(dilation, kernel, strict=True)
    ]
    groups = data.draw(st.integers(1, 3))
    conv = Conv2d(2, groups, *size, 2 * groups, kernel, stride, padding, dilation, groups)
    x, weight = np.ones((2, groups, *size)), np.ones((2 * groups, 1, *kernel))
    real = convolution(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert conv.output_shape == real.shape
    assert conv.macs == real.size * kernel[0] * kernel[1]


@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "dilation", "groups", "kind"),
    [
        (8, 8, (3, 3), (1, 1), 1, "dense"),
        (8, 8, (1, 1), (1, 1), 1, "pointwise"),
        (8, 8, (3, 3), (2, 1), 1, "dilated dense"),
        (8, 8, (1, 1), (2, 2), 1, "pointwise"),
        (8, 16, (3, 3), (1, 1), 4, "grouped"),
        (8, 16, (1, 1), (1, 1), 4, "grouped pointwise"),
        (8, 8, (3, 3), (1, 1), 8, "depthwise"),
        (8, 16, (3, 3), (1, 1), 8, "depthwise"),
        (8, 8, (3, 3), (3, 3), 8, "dilated depthwise"),
        (1, 8, (3, 3), (1, 1), 1, "dense"),
    ],
)
def test_kind(
    channels: int,
    filters: int,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    kind: str,
) -> None:
    conv = Conv2d(1, channels, 9, 9, filters, kernel, dilation=dilation, groups=groups)
    assert conv.kind == kind


def test_shape_grammar() -> None:
    conv = Conv2d(2, 64, 56, 28, 32, (3, 5), (2, 1), (1, 2, 0, 2), (1, 2), 8)
    assert str(conv) == "2*64x56x28->32 k3x5 s2x1 p1,2,0,2 d1x2 g8"
    assert str(Conv2d(1, 3, 4, 4, 8, (1, 1))) == "3x4x4->8 k1x1 s1x1 p0,0,0,0 d1x1 g1"


def test_equal_workloads_are_one_key() -> None:
    assert len({Conv2d(1, 3, 4, 4, 8, (1, 1)), Conv2d(1, 3, 4, 4, 8, (1, 1))}) == 1


@given(st.data())
def test_what_is_printed_is_read_again(data: st.DataObject) -> None:
    def numbers(count: int, low: int, high: int) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * count))

    kernel, stride, dilation = numbers(2, 1, 7), numbers(2, 1, 3), numbers(2, 1, 3)
    padding, groups = numbers(4, -1, 3), data.draw(st.integers(1, 4))
    batch, per_in, per_out, more = numbers(4, 1, 5)
    size = [
        d * (k - 1) + 2 + more for d, k in zip(dilation, kernel, strict=True)
    ]  # padding may cut two rows
    conv = Conv2d(
        batch, groups * per_in, *size, groups * per_out, kernel, stride, padding, dilation, groups
    )
    assert Conv2d.parse(str(conv)) == conv


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("8x9x7->4 k3", "8x9x7->4 k3x3 s1x1 p0,0,0,0 d1x1 g1"),
        ("2*8x9x7 -> 4, k3x1 p1,2 g2", "2*8x9x7->4 k3x1 s1x1 p1,2,1,2 d1x1 g2"),
        ("  8x9x7->4 g4 d2 s2x1 p1 k3 ", "8x9x7->4 k3x3 s2x1 p1,1,1,1 d2x2 g4"),
        ("8x9x7->4 k1 shuffle2", "8x9x7->4 k1x1 s1x1 p0,0,0,0 d1x1 g1 shuffle2"),
    ],
)
def test_short_forms(text: str, same: str) -> None:
    assert str(Conv2d.parse(text)) == same


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with CHANNELSxHEIGHTxWIDTH->CHANNELS"),
        ("8x9->4 k3", "begins with"),
        ("8x9x7->4", "the kernel is missing"),
        ("8x9x7->4 k3 q1", "'q1' is none of k, s, p, d, g"),
        ("8x9x7->4 k3 k3", "k is given twice"),
        ("8x9x7->4 k3x3x3", "k takes one number or two"),
        ("8x9x7->4 k3 p1,1,1", "p takes one number, two"),
        ("8x9x7->4 k3 g3", "3 groups do not divide 8 input channels"),
        ("8x9x7->6 k3 g4", "4 groups do not divide 6 output channels"),
        ("8x9x7->4 k10x3", "the kernel is larger"),
        ("8x9x7->4 k3 s0", "each number but padding is from 1"),
        ("8x9x9999999->4 k3", "each number but padding is from 1"),
        ("8x9x7->4 k3 depth3", "'depth3' is none of"),
    ],
)
def test_what_is_no_shape(text: str, reason: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(reason)):
        Conv2d.parse(text)
