"""The list of expected failures fits the suite."""

from tests.conformance import suite


def test_every_line_matches_a_test() -> None:
    found = [name for case in suite.classes().values() for name in suite.names(case)]
    expected = suite.expected_failures()
    assert expected
    for entry in expected:
        assert any(entry.matches(name) for name in found), f"stale line: {entry.pattern}"
