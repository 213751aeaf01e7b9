"""Random networks of a few layers equal ONNX Runtime's, run after run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeconv
from tests.e2e.chains import chains
from tests.e2e.models import assert_close, expected

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which compiles many models

TOLERANCE = 3e-5  # of the output's max-norm: a few layers' rounding errors


def check(model: onnx.ModelProto, threads: int) -> None:
    """Three runs with different inputs: the later ones find used memory and halos."""
    compiled = edgeconv.compile(model, threads=threads)
    for seed in (1, 2, 1):
        feeds = compiled.random_inputs(seed)
        if seed == 2:
            feeds = {n: x * np.float32(8) for n, x in feeds.items()}
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE, floor=1)


@settings(max_examples=80)
@given(chains(), st.integers(1, 2))
def test_chain(model: onnx.ModelProto, threads: int) -> None:
    check(model, threads)


@pytest.mark.slow
@settings(max_examples=400)
@given(chains(longest=8), st.integers(1, 2))
def test_long_chain(model: onnx.ModelProto, threads: int) -> None:
    check(model, threads)
