"""Physical layouts: shapes, strides and offsets agree with NumPy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeconv.layout import NO_HALO, PLAIN, Layout

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
HALOS = st.tuples(*[st.integers(0, 3)] * 4)


@given(SHAPES, st.integers(1, 16), HALOS)
def test_interior_lies_where_the_strides_say(
    shape: tuple[int, int, int, int], block: int, halo: tuple[int, int, int, int]
) -> None:
    layout = Layout(block, halo)
    buffer = np.arange(layout.elements(shape)).reshape(layout.buffer_shape(shape))
    _, c, h, w = shape
    top, left, _, _ = halo
    interior = buffer[:, :, top : top + h, left : left + w]
    assert interior.shape == layout.interior_shape(shape)
    assert interior.shape[1] == -(-c // block)
    assert layout.strides(shape) == tuple(s // buffer.itemsize for s in buffer.strides)
    assert interior.flat[0] == layout.offset(shape)


@given(st.lists(st.integers(1, 5), max_size=5))
def test_plain_is_row_major(shape: list[int]) -> None:
    assert PLAIN.is_plain
    assert PLAIN.buffer_shape(shape) == tuple(shape)
    assert PLAIN.offset(shape) == 0
    assert PLAIN.elements(shape) == np.prod(shape, dtype=int)


def test_names() -> None:
    assert str(PLAIN) == "plain"
    assert str(Layout(1)) == "NCHW"
    assert str(Layout(16)) == "NCHW16c"
    assert str(Layout(16, (1, 2, 3, 4))) == "NCHW16c+1,2,3,4"
    assert Layout(8, (1, 1, 1, 1)).with_halo(NO_HALO) == Layout(8)
