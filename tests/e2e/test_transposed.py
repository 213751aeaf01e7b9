"""Any transposed convolution through the public API equals that of ONNX Runtime."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeconv
from tests.e2e.models import native
from tests.e2e.transposed import Case, cases, check

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which compiles many models

PLAIN = Case(
    1, 1, 16, 16, (6, 5), (2, 2), (2, 2), (1, 1), (0, 0), (0, 0), (0, 0),
    False, False, False, True, "", 1, 0,
)  # fmt: skip


@settings(max_examples=100)
@given(cases())
def test_transposed(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=500)
@given(cases())
def test_many_transposed(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("name", ["x86-avx2", "x86-sse4"])
def test_narrower_vectors(name: str) -> None:
    target = native(name)

    @settings(max_examples=30)
    @given(cases())
    def run(case: Case) -> None:
        check(case, target)

    run()


@settings(max_examples=15)
@given(cases(ranks=(3,), most_channels=8))
def test_three_axes(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": (2, 2)},  # U-Net
        {"kernel": (3, 3), "before": (1, 1), "after": (1, 1), "extra": (1, 1)},
        {"kernel": (4, 4), "before": (1, 1), "after": (1, 1)},  # DCGAN
        {"kernel": (9, 9), "stride": (3, 3), "before": (4, 4), "after": (4, 4), "extra": (2, 2)},
        {"kernel": (16, 16), "stride": (8, 8), "before": (4, 4), "after": (4, 4)},  # FCN
        {"kernel": (64, 64), "stride": (32, 32), "size": (2, 3)},
        {"kernel": (1, 1)},  # phases without taps
        {"kernel": (1, 2), "stride": (3, 2)},
        {"kernel": (2, 2), "dilation": (2, 2)},  # again: taps on even rows only
        {"kernel": (3, 3), "stride": (4, 4), "dilation": (2, 2), "extra": (1, 3)},
        {"kernel": (3, 3), "stride": (1, 1), "before": (2, 0), "after": (0, 2)},
        {"kernel": (5, 5), "before": (4, 4), "after": (4, 4)},  # all pads: the input is cut
        {"kernel": (4, 4), "size": (1, 1), "stride": (1, 1)},
    ],
)
@pytest.mark.parametrize(
    ("groups", "cpg", "kpg"), [(1, 16, 32), (1, 5, 3), (1, 7, 1), (16, 1, 1), (4, 8, 8), (3, 2, 5)]
)
def test_named_shapes(changes: dict[str, tuple[int, ...]], groups: int, cpg: int, kpg: int) -> None:
    case = dataclasses.replace(PLAIN, groups=groups, in_per_group=cpg, out_per_group=kpg, **changes)
    check(dataclasses.replace(case, activation="relu", scale=True))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("filters", [2, 16])
def test_everything_behind_it(residual: bool, kernel: tuple[int, int], filters: int) -> None:
    case = dataclasses.replace(PLAIN, kernel=kernel, residual=residual, out_per_group=filters)
    check(dataclasses.replace(case, scale=True, activation="silu"))


def test_up_convolutions_write_into_one_map() -> None:
    case = dataclasses.replace(
        PLAIN, out_per_group=32, scale=True, residual=True, activation="relu"
    )
    layers = edgeconv.explain(case.model())
    assert [layer.op for layer in layers if layer.op != "copy"] == ["pointwise"] * 4


def test_few_filters_become_channels() -> None:
    case = dataclasses.replace(
        PLAIN, in_per_group=32, out_per_group=3, scale=True, activation="relu"
    )
    layers = [layer.op for layer in edgeconv.explain(case.model()) if layer.op != "copy"]
    assert layers == ["pointwise", "fold"]


@given(st.data())
@settings(max_examples=20)
def test_sums_are_divided_among_threads_without_change(data: st.DataObject) -> None:
    case = data.draw(cases(ranks=(2,)))
    one, two = (edgeconv.compile(case.model(), threads=t) for t in (1, 2))
    feeds = case.feeds(1)
    for name, array in one.run(feeds).items():
        assert (array == two.run(feeds)[name]).all()
