"""The other half of the random convolutions, for the other core; and those for narrower vectors."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeconv import targets
from tests.e2e.convolutions import Case, cases, check, check_exactly

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which compiles many models

NARROWER = ("x86-avx2", "x86-sse4")


def device(name: str) -> targets.Device:
    """A named device, if its code can run here."""
    found = targets.load(name)
    if not found.is_native:
        pytest.skip(f"this machine can't run code for {name}")
    return found


@settings(max_examples=150)
@given(cases())
def test_convolution(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("name", NARROWER)
def test_convolution_of_narrower_vectors(name: str) -> None:
    target = device(name)

    @settings(max_examples=60)
    @given(cases())
    def run(case: Case) -> None:
        check(case, target)

    run()


@pytest.mark.parametrize("name", NARROWER)
def test_exact_convolution_of_narrower_vectors(name: str) -> None:
    target = device(name)

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
