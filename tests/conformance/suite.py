"""ONNX's public conformance suite as pytest classes: what runs, what is slow, what must fail."""

from __future__ import annotations

import re
import unittest
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeconv.errors import EdgeconvError
from edgeconv.onnx_backend import EdgeconvBackend

EXPECTED_FAILURES = Path(__file__).with_name("expected_failures.txt")

# The expansions of operators into ONNX's own functions repeat what the operators' tests show.
SLOW = re.compile(r"_expanded(_ver\d+)?_cpu$")


@dataclass(frozen=True)
class Expected:
    """One line of the file: a test, or all tests that a regular expression matches."""

    pattern: str
    reason: str

    def matches(self, name: str) -> bool:
        """True for the test `name`, which ends in _cpu."""
        if self.pattern.startswith("/"):
            return re.fullmatch(self.pattern.strip("/"), name.removesuffix("_cpu")) is not None
        return name == f"{self.pattern}_cpu"


def expected_failures() -> list[Expected]:
    """The lines of the file."""
    lines = EXPECTED_FAILURES.read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    return [Expected(pattern, reason) for pattern, reason in pairs]


def classes() -> dict[str, type[unittest.TestCase]]:
    """The suite's test classes, without the real networks: those have tests of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about overflows that the suite wants
        from onnx.backend.test import BackendTest

        suite = BackendTest(EdgeconvBackend, __name__)
    return {k: v for k, v in suite.test_cases.items() if "Real" not in k}


def names(case: type[unittest.TestCase]) -> list[str]:
    """The test methods of a class that concern the CPU."""
    return [n for n in vars(case) if n.startswith("test_") and n.endswith("_cpu")]


def collect(part: int, parts: int) -> dict[str, type[unittest.TestCase]]:
    """One of `parts` equal shares of the suite, ready for a test module's globals."""
    expected = expected_failures()
    result = {}
    for title, case in classes().items():
        mine = {}
        for index, name in enumerate(sorted(names(case))):
            if index % parts == part:
                mine[name] = _marked(name, vars(case)[name], expected)
        result[title] = type(title, (unittest.TestCase,), mine)
    return result


def _marked(name: str, test: object, expected: list[Expected]) -> object:
    reason = next((e.reason for e in expected if e.matches(name)), None)
    if reason is not None:
        # A refusal must be edgeconv's own error, never one of TVM's or Python's.
        raises = (EdgeconvError, AssertionError)
        test = pytest.mark.xfail(strict=True, raises=raises, reason=reason)(test)
    return pytest.mark.slow(test) if SLOW.search(name) else test
