"""Channels split, joined and shuffled between convolutions, against ONNX Runtime.

The passes that let channels be read where they were made, join slices and drop dead channels meet
the layouts that write and read parts of maps in place.
"""

from __future__ import annotations

import pytest

import edgeconv
from tests.e2e.models import assert_close, expected, native
from tests.e2e.stages import stages

ON = ("x86-avx512", "x86-avx2", "x86-sse4")
TOLERANCE = 3e-5  # of the output's max-norm


def check(seed: int, target: str, longest: int) -> None:
    """Two runs: the second finds used memory and halos."""
    model = stages(seed, longest)
    compiled = edgeconv.compile(model, target=native(target), threads=1 + seed % 2)
    for run in (1, 2):
        feeds = compiled.random_inputs(run)
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE, floor=1)


@pytest.mark.parametrize("seed", range(9))
def test_random_stages(seed: int) -> None:
    check(seed, ON[seed % 3], longest=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 350))
def test_many_random_stages(seed: int) -> None:
    check(seed, ON[seed % 3], longest=6)
