"""The nine networks that come with the onnx package, as shipped and with random weights."""

from __future__ import annotations

import pytest

import edgeconv
from edgeconv.benchmarks.networks import light_names, light_network
from tests.e2e.models import assert_close, expected

TOLERANCE = 1e-4  # of the output's max-norm
NAMES = light_names()
LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")  # hundreds of megabytes of weights


def check(name: str, *, he_normal: bool, threads: int = 2) -> None:
    """Two runs; without the final softmax where weights are random, which saturates it."""
    model = light_network(name, he_normal=he_normal, logits=he_normal)
    compiled = edgeconv.compile(model, threads=threads)
    for seed in (0, 1):
        feeds = compiled.random_inputs(seed)
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE)


def test_all_nine_are_here() -> None:
    assert len(NAMES) == 9


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in LARGE])
def test_random_weights(name: str) -> None:
    check(name, he_normal=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "vgg19" else n for n in LARGE]
)
def test_large_as_shipped(name: str) -> None:
    check(name, he_normal=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LARGE)
def test_large_with_random_weights(name: str) -> None:
    check(name, he_normal=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in LARGE])
def test_as_shipped(name: str) -> None:
    check(name, he_normal=False, threads=1)
