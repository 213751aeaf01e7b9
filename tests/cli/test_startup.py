"""Help and usage errors are instant, and `edgeconv doctor` runs where TVM does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeconv

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["run", "--threads", "x", "n"],
        ["bench", "groups", "--help"],
        ["bench", "groups", "--threads", "x"],
    ],
)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    done = python(
        "import sys; from edgeconv.cli import app\n"
        f"try: app({arguments!r})\n"
        "finally: assert not {'tvm', 'onnx', 'numpy'} & set(sys.modules)"
    )
    assert "AssertionError" not in done.stderr
    assert done.returncode in (0, 2)


def test_doctor_where_tvm_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "tvm.py").write_text("raise ImportError('libtvm.so is gone')")
    done = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from edgeconv.cli import app; app(['doctor'])"
    )
    assert done.returncode == 1
    assert "libtvm.so is gone" in done.stdout
    assert "edgeconv does not work here: 1 fault" in done.stdout


def test_every_public_name() -> None:
    for name in edgeconv.__all__:
        assert getattr(edgeconv, name) is not None
    assert set(edgeconv.__all__) <= set(dir(edgeconv))
    assert edgeconv.targets.names()
    assert not hasattr(edgeconv, "nothing")
