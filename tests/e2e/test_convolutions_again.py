"""The other half of the random convolutions, for the other core; and those for narrower vectors."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.convolutions import Case, cases, check, check_exactly
from tests.e2e.models import native

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which compiles many models

NARROWER = ("x86-avx2", "x86-sse4")


@settings(max_examples=150)
@given(cases())
def test_convolution(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("name", NARROWER)
def test_convolution_of_narrower_vectors(name: str) -> None:
    target = native(name)

    @settings(max_examples=60)
    @given(cases())
    def run(case: Case) -> None:
        check(case, target)

    run()


@pytest.mark.parametrize("name", NARROWER)
def test_exact_convolution_of_narrower_vectors(name: str) -> None:
    target = native(name)

    @settings(max_examples=30)
    @given(cases(), st.sampled_from(("", "relu")))
    def run(case: Case, activation: str) -> None:
        check_exactly(dataclasses.replace(case, activation=activation), target)

    run()


@pytest.mark.slow
@settings(max_examples=300)
@given(cases())
def test_many_convolutions(case: Case) -> None:
    check(case)
