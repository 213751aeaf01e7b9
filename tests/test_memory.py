"""The workspace plan: live buffers never overlap, and rims stay zero."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeconv.memory import ALIGNMENT, Request, aligned, plan


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A buffer; rims come from a few shapes, whose sizes follow from them."""
    first = draw(st.integers(0, 20))
    last = first + draw(st.integers(0, 8))
    rim = draw(st.sampled_from((None, None, 1, 2, 3)))
    size = draw(st.integers(0, 1000)) if rim is None else 100 * rim
    return Request(size, first, last, rim)


def overlap(a: Request, b: Request, at_a: int, at_b: int) -> bool:
    """Whether two buffers share a byte."""
    return at_a < at_b + b.size and at_b < at_a + a.size


@settings(max_examples=500)
@given(st.lists(requests(), max_size=25))
def test_plan(wanted: list[Request]) -> None:
    offsets, total = plan(wanted)
    assert len(offsets) == len(wanted)
    assert total <= sum(aligned(r.size) for r in wanted)
    for request, offset in zip(wanted, offsets, strict=True):
        assert offset % ALIGNMENT == 0
        assert 0 <= offset <= total - request.size
    for i, a in enumerate(wanted):
        for j, b in enumerate(wanted[:i]):
            if not overlap(a, b, offsets[i], offsets[j]):
                continue
            assert a.last < b.first or b.last < a.first
            # memory with a rim is shared by equal shapes only: nobody else may write the rim
            assert a.rim == b.rim
            if a.rim is not None:
                assert (a.size, offsets[i]) == (b.size, offsets[j])


def test_dead_buffers_are_reused() -> None:
    chain = [Request(640, i, i + 1) for i in range(10)]
    assert plan(chain)[1] == 2 * 640
    rims = [Request(640, i, i + 1, "a") for i in range(10)]
    assert plan(rims)[1] == 2 * 640


def test_nothing_to_place() -> None:
    assert plan([]) == ([], 0)
