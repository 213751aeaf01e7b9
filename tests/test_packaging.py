"""What gets installed: wheel, editable install and sdist hold the linked folders and the data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("schedules", "benchmarks", "tuning_logs")
DATA = {".py", ".toml", ".json", ".jsonl", ".csv", ".txt"}
PROBE = """
import importlib, sys
from importlib.resources import files
from edgeconv import targets
assert len(targets.names()) >= 10, targets.names()
assert targets.load("raspberry-pi-4").cpu == "cortex-a72"
for name in ("schedules", "benchmarks", "tuning_logs"):
    assert importlib.import_module(f"edgeconv.{name}.probe").WHO == f"edgeconv.{name}.probe"
    assert files(f"edgeconv.{name}").joinpath("board-1.2/records.jsonl").read_text() == "{}"
print(targets.__file__)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, so that building leaves nothing behind, with a probe module and a
    data file planted in each linked folder.
    """
    copy = tmp_path_factory.mktemp("source") / "edgeconv"
    unwanted = shutil.ignore_patterns(
        *(".git", ".venv", ".*_cache", ".hypothesis", ".peers-lab"),
        *("build", "dist", "*.egg-info", "__pycache__", "*.edgeconv"),
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    for name in LINKED:
        (copy / name / "board-1.2").mkdir(parents=True, exist_ok=True)
        (copy / name / "__init__.py").touch()
        (copy / name / "probe.py").write_text("WHO = __name__\n")
        (copy / name / "board-1.2/records.jsonl").write_text("{}")
    return copy


def build(source: Path, hook: str, into: Path) -> Path:
    """Run one hook of the build backend in `source`; the file it made."""
    into.mkdir(parents=True, exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    run([sys.executable, "-c", code, str(into)], cwd=source)
    (made,) = into.iterdir()
    return made


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Output of a command; its error output is shown when it fails."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(package: Path, where: Path) -> Path:
    """A fresh environment at `where` with `package` and nothing else; its Python."""
    venv.create(where, with_pip=False)
    python = where / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", str(package)], cwd=where)
    return python


def probe(python: Path, cwd: Path) -> str:
    """Where the installed edgeconv.targets lies, its parts checked; TVM comes from this process."""
    borrowed = os.pathsep.join(path for path in sys.path if path.endswith("-packages"))
    return run([str(python), "-c", PROBE], cwd=cwd, PYTHONPATH=borrowed).strip()


def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "build_wheel", tmp_path_factory.mktemp("wheel"))


def test_the_links_are_relative() -> None:
    for name in LINKED:
        assert os.readlink(ROOT / "edgeconv" / name) == f"../{name}"


def test_wheel_installs_everything(wheel: Path, tmp_path: Path) -> None:
    python = install(wheel, tmp_path / "env")
    assert probe(python, tmp_path).startswith(str(tmp_path / "env"))
    assert (tmp_path / "env/bin/edgeconv").exists()


def test_wheel_holds_every_source_and_data_file(wheel: Path, source: Path) -> None:
    wanted = {
        str(Path(folder, file).relative_to(source))
        for folder, _, files in os.walk(source / "edgeconv", followlinks=True)
        for file in files
        if Path(file).suffix in DATA
    }
    assert wanted - wheel_names(wheel) == set()
    assert not [name for name in wheel_names(wheel) if not name.startswith("edgeconv/")]


@pytest.mark.slow
def test_editable_install(source: Path, tmp_path: Path) -> None:
    editable = build(source, "build_editable", tmp_path / "wheel")
    python = install(editable, tmp_path / "env")
    assert probe(python, tmp_path).startswith(str(source))


def test_sdist_builds_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    sdist = build(source, "build_sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        if sys.version_info >= (3, 11, 4):
            archive.extractall(tmp_path, filter="data")
        else:
            archive.extractall(tmp_path)
    unpacked = next(path for path in tmp_path.iterdir() if path.name.startswith("edgeconv-"))
    again = build(unpacked, "build_wheel", tmp_path / "wheel")
    assert wheel_names(again) == wheel_names(wheel)
