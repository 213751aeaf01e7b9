"""Accuracy of the float32 polynomials, in units in the last place of the true value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from edgeconv.graph.ir import Graph
from tests.reference import run_graph

Function = Callable[[np.ndarray], np.ndarray]


def run(op: str, x: np.ndarray, **attrs: Any) -> np.ndarray:
    graph = Graph("one")
    value = graph.input("x", x.shape, str(x.dtype))
    graph.outputs.append(graph.add(op, [value], name="y", **attrs).output)
    return run_graph(graph, {"x": x})["y"]


def ulps(found: np.ndarray, true: np.ndarray) -> float:
    """The largest error."""
    spacing = np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(found.astype(np.float64) - true) / spacing))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


CASES: dict[str, tuple[Function, float, float, float]] = {  # function, from, to, allowed ulps
    "exp": (np.exp, -87, 88.7, 3),
    "log": (np.log, 1e-30, 1e30, 2),
    "tanh": (np.tanh, -12, 12, 8),
    "erf": (special.erf, -6, 6, 8),
    "sigmoid": (special.expit, -80, 80, 4),
    "softplus": (softplus, -80, 80, 4),
    "sinh": (np.sinh, -89, 89, 6),
    "cosh": (np.cosh, -89, 89, 6),
    "asinh": (np.arcsinh, -1e6, 1e6, 4),
    "acosh": (np.arccosh, 1, 1e6, 6),
    "atanh": (np.arctanh, -0.999, 0.999, 4),
    "asin": (np.arcsin, -1, 1, 4),
    "acos": (np.arccos, -1, 0.99, 4),
    "atan": (np.arctan, -1e4, 1e4, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_error_is_a_few_ulps(name: str) -> None:
    function, low, high, allowed = CASES[name]
    rng = np.random.default_rng(7)
    wide = rng.uniform(low, high, 100_000)
    near = np.clip(rng.standard_normal(100_000), low, high)
    x = np.concatenate([wide, near]).astype(np.float32)
    x = x[np.abs(x) > 1e-30]
    assert ulps(run(name, x), function(x.astype(np.float64))) <= allowed


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sigmoid", "softplus", "atan"])
def test_special_values(name: str) -> None:
    x = np.array([0, np.inf, -np.inf, np.nan], np.float32)
    with np.errstate(all="ignore"):
        expected = CASES[name][0](x.astype(np.float64))
    np.testing.assert_allclose(run(name, x), expected, rtol=1e-6)


def test_logarithms_of_subnormals() -> None:
    x = np.array([1e-45, 1e-40, 1.1754942e-38], np.float32)
    np.testing.assert_allclose(run("log", x), np.log(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sigmoid", "softplus", "asinh"])
def test_float64_keeps_its_precision(name: str) -> None:
    x = np.linspace(-5, 5, 1001)
    np.testing.assert_allclose(run(name, x), CASES[name][0](x), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sigmoid", "softplus"])
def test_float16_is_rounded_once(name: str) -> None:
    x = np.linspace(-5, 5, 1001).astype(np.float16)
    expected = CASES[name][0](x.astype(np.float64)).astype(np.float16)
    np.testing.assert_allclose(run(name, x), expected, rtol=1.1e-3)


def test_round_is_half_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 1e30], np.float32)
    np.testing.assert_array_equal(run("round", x), np.rint(x))
