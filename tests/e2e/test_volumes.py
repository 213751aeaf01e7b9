"""Any 3-D convolution through the public API equals that of ONNX Runtime."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings

import edgeconv
from tests.e2e.models import native
from tests.e2e.volumes import Case, cases, check

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which compiles many models

PLAIN = Case(
    1, 1, 16, 16, (5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1),
    True, False, False, "", False, 1, 0,
)  # fmt: skip


@settings(max_examples=60)
@given(cases())
def test_volumes(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=500)
@given(cases())
def test_many_volumes(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("name", ["x86-avx2", "x86-sse4"])
def test_narrower_vectors(name: str) -> None:
    target = native(name)

    @settings(max_examples=20)
    @given(cases())
    def run(case: Case) -> None:
        check(case, target)

    run()


@pytest.mark.parametrize(
    "changes",
    [
        {"in_per_group": 3, "kernel": (1, 7, 7), "stride": (1, 2, 2), "before": (0, 3, 3)},
        {"kernel": (5, 1, 1), "before": (2, 0, 0), "after": (2, 0, 0)},
        {"kernel": (1, 1, 1), "before": (0, 0, 0), "after": (0, 0, 0)},
        {"stride": (2, 2, 2), "batch": 2},
        {"stride": (3, 1, 1), "dilation": (2, 1, 1)},
        {"size": (2, 6, 7), "kernel": (5, 3, 3), "before": (2, 1, 1), "after": (2, 1, 1)},
        {"size": (2, 5, 5), "kernel": (2, 1, 1), "before": (3, 0, 0)},  # slices of padding only
        {"size": (4, 1, 1), "before": (1, 1, 1)},
        {"size": (3, 4, 1), "kernel": (3, 3, 1), "before": (1, 1, 0), "after": (1, 1, 0)},
    ],
)
@pytest.mark.parametrize(("groups", "cpg", "kpg"), [(1, 16, 20), (1, 5, 3), (24, 1, 1), (4, 8, 4)])
def test_named_shapes(changes: dict[str, tuple[int, ...]], groups: int, cpg: int, kpg: int) -> None:
    case = dataclasses.replace(PLAIN, groups=groups, in_per_group=cpg, out_per_group=kpg)
    check(dataclasses.replace(case, **changes, activation="relu", scale=True, residual=True))


def test_nothing_is_moved_between_convolutions() -> None:
    case = dataclasses.replace(PLAIN, scale=True, residual=True, activation="silu", second=True)
    layers = [layer.op for layer in edgeconv.explain(case.model())]
    # each convolution in three runs: the first slice, those within, the last
    assert layers.count("dense") == 6
    assert layers.count("slices") == 2  # of the inputs
    assert "copy" not in layers


def test_slices_of_padding_only_take_the_plain_rule() -> None:
    case = dataclasses.replace(PLAIN, kernel=(2, 1, 1), before=(3, 0, 0), after=(0, 0, 0))
    assert [layer.op for layer in edgeconv.explain(case.model())] == ["conv3d"]
