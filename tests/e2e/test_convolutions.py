"""Any convolution through the public API equals that of ONNX Runtime; for the host itself."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.convolutions import Case, cases, check, check_exactly

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which compiles many models


@settings(max_examples=150)
@given(cases())
def test_convolution(case: Case) -> None:
    check(case)


@settings(max_examples=50)
@given(cases(), st.sampled_from(("", "relu")))
def test_exact_convolution(case: Case, activation: str) -> None:
    check_exactly(dataclasses.replace(case, activation=activation))


@pytest.mark.slow
@settings(max_examples=300)
@given(cases())
def test_many_convolutions(case: Case) -> None:
    check(case)
