"""`edgeconv compile`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgeconv import linking
from edgeconv.artifact import read
from edgeconv.errors import BuildError

ARM = "raspberry-pi-4"


def test_says_what_it_wrote(cli, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.edgeconv"
    done = cli("compile", model, "--threads", 1, "-o", path)
    assert done.status == 0
    assert f"written    {path} (" in done.out
    assert "x: float32[1, 8, 12, 12]" in done.out
    assert done.err == ""
    assert read(path).manifest.threads == 1


def test_json(cli, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.edgeconv"
    found = cli("compile", model, "--threads", 1, "-o", path, "--json").json
    assert found["output"] == str(path)
    assert found["bytes"] == path.stat().st_size
    assert found["code"] == "code.so"
    assert found["inputs"] == [{"name": "x", "shape": [1, 8, 12, 12], "dtype": "float32"}]


def test_output_is_named_after_the_model(cli, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("compile", model, "--threads", 1).status == 0
    assert (tmp_path / "net.edgeconv").exists()


def test_open_shapes(cli, dynamic: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.edgeconv"
    done = cli("compile", dynamic, "--threads", 1, "-o", path)
    assert done.status == 1
    assert "--input-shape NAME=1x3x224x224" in done.err
    assert cli("compile", dynamic, "--input-shape", "x=1x8x9x7", "-o", path).status == 0
    assert read(path).manifest.inputs[0].shape == (1, 8, 9, 7)


def test_arm_without_a_linker(cli, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(linking, "find_linker", lambda device: None)
    monkeypatch.setattr("edgeconv.artifact.find_linker", lambda device: None)
    path = tmp_path / "arm.edgeconv"
    done = cli("compile", model, "--target", ARM, "-o", path)
    assert done.status == 0
    assert "warning: no linker for aarch64 here" in done.err
    assert "install gcc-aarch64-linux-gnu (apt), or `pip install 'edgeconv[cross]'`" in done.err
    assert "code.o" in zipfile.ZipFile(path).namelist()
    shown = cli("inspect", path)
    assert "object file, not linked yet" in shown.out
    assert cli("inspect", path, "--json").json["code"] == "code.o"
    ran = cli("run", path)
    assert ran.status == 1
    assert f"compiled for '{ARM}'" in ran.err


def test_a_failed_link_leaves_the_old_file(cli, model: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(code: bytes, command: object) -> bytes:
        raise BuildError("linker cc failed: no space left")

    monkeypatch.setattr("edgeconv.artifact.link", refuse)
    path = tmp_path / "net.edgeconv"
    path.write_text("old")
    done = cli("compile", model, "--threads", 1, "-o", path)
    assert done.status == 1
    assert done.err == "error: linker cc failed: no space left\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(cli, model: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    path = tmp_path / "net.edgeconv"
    path.write_text("old")
    done = cli("compile", model, "--threads", 1, "-o", path)
    assert done.status == 1
    assert done.err == f"error: can't write {path}: No space left on device\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_too_many_threads_is_a_warning(cli, model: Path, tmp_path: Path) -> None:
    done = cli("compile", model, "--threads", 1000, "-o", tmp_path / "net.edgeconv")
    assert done.status == 0
    assert "warning: compiled for 1000 threads" in done.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/net.edgeconv", "does not exist"),
        ("", "it is a folder"),
        ("file/net.edgeconv", "does not exist"),
    ],
)
def test_outputs_that_cannot_be_written(
    cli, model: Path, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "file").touch()
    done = cli("compile", model, "-o", tmp_path / name)
    assert done.status == 1
    assert done.err.startswith("error: can't write ")
    assert words in done.err


def test_the_model_is_not_overwritten(cli, model: Path) -> None:
    before = model.read_bytes()
    done = cli("compile", model, "-o", model)
    assert done.status == 1
    assert "it is an input; name another output" in done.err
    assert model.read_bytes() == before
