"""Settings all tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from edgeconv import codegen
from edgeconv.tuning import records
from tests.schedules import bounds

# Records of whoever runs the tests must not decide which kernels are tested.
_data = tempfile.TemporaryDirectory(prefix="edgeconv-tests-")
os.environ["XDG_DATA_HOME"] = _data.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--bounds`: nothing reads or writes outside a buffer, or its test fails."""
    parser.addoption("--bounds", action="store_true", help="kernels check every index they use")


@pytest.fixture(autouse=True, scope="session")
def checked_indices(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--bounds`, all that is compiled in the tests' processes checks its indices."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("bounds"):
            patch.setattr(codegen, "build", bounds.build)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_shipped_records() -> Iterator[None]:
    """Nor must those that edgeconv ships for a processor like this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "shipped_folder", lambda: Path(_data.name, "shipped"))
        yield


# A failure prints the blob that reproduces it (`@reproduce_failure`). Compiling takes a while: no
# deadline, and no "explain" phase, which would compile hundreds of variants of a failure.
# `make test` draws the same examples every time, `make test-all` new ones ("random").
for name in ("fixed", "random"):
    settings.register_profile(
        name,
        deadline=None,
        derandomize=name == "fixed",
        print_blob=True,
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
