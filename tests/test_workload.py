"""Convolution workloads: sizes, kinds, and the shape grammar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
