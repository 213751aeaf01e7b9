"""Wrong files, wrong usage, interrupts and bugs: a clear message and the right exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeconv import __version__, api
from edgeconv.cli.options import parse_shapes

COMMANDS = ("compile", "run", "inspect", "explain", "profile", "targets", "doctor")
ON_MODELS = COMMANDS[:5]


@pytest.mark.parametrize("command", ON_MODELS)
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.onnx", None, "does not exist"),
        ("folder", "", ("is a folder", "is a directory")),
        ("text.onnx", b"this is no model, just words", "not an ONNX model"),
        ("empty.onnx", b"", "empty"),
        ("torn.edgeconv", b"PK\x03\x04 torn", ("not an edgeconv artifact", "compiled already")),
        ("empty.edgeconv", b"", ("not an edgeconv artifact", "compiled already")),
    ],
)
def test_wrong_files(
    cli, tmp_path: Path, monkeypatch, command: str, name: str, content, words
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    done = cli(command, path)
    assert done.status == 1
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert any(w in done.err for w in ((words,) if isinstance(words, str) else words)), done.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["compile", "run", "explain", "profile"])
def test_unknown_target(cli, model: Path, tmp_path: Path, monkeypatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(command, model, "--target", "raspberry-pi-44")
    assert done.status == 1
    assert "unknown target 'raspberry-pi-44' (did you mean 'raspberry-pi-4'?)" in done.err
    assert "No" not in cli(command, model, "--target", "none.toml").out


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "99999999999"])
@pytest.mark.parametrize("command", ["compile", "run", "explain", "profile"])
def test_bad_threads(cli, model: Path, command: str, threads: str) -> None:
    done = cli(command, model, "--threads", threads)
    assert done.status == 2
    assert "--threads" in done.err


@pytest.mark.parametrize(
    "shape",
    ["1x3", "x", "x=", "=1x3", "x=1x", "x=1,3", "x=1x-3", "x=1x0", "x=1x3.5", "x=axb", "x=1xx3",
     "x=1x99999999999", "x=²x3"],
)  # fmt: skip
def test_bad_shapes(cli, model: Path, shape: str) -> None:
    done = cli("inspect", model, "--input-shape", shape)
    assert done.status == 2
    assert "Invalid value for '--input-shape'" in done.err


def test_shapes_that_do_not_fit(cli, model: Path) -> None:
    assert "no input 'z'" in cli("inspect", model, "--input-shape", "z=1x8x12x12").err
    assert "dimension 1 is 8" in cli("inspect", model, "--input-shape", "x=1x3x12x12").err
    assert "given twice" in cli("inspect", model, *["--input-shape", "x=1x8x12x12"] * 2).err


def test_shapes() -> None:
    assert parse_shapes(None) == {}
    assert parse_shapes(["in:0=1x3x8X8", "a=b=5"]) == {"in:0": (1, 3, 8, 8), "a=b": (5,)}


def test_interrupt(cli, model: Path, monkeypatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "compile_artifact", stop)
    done = cli("compile", model, "-o", tmp_path / "net.edgeconv")
    assert (done.status, done.err) == (130, "error: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_bug(cli, model: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(api, "explain", fail)
    done = cli("explain", model)
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: unexpected RuntimeError: two lines; --verbose shows where")
    assert "edgeconv doctor" in done.err
    loud = cli("explain", model, "--verbose")
    assert "Traceback" in loud.err
    assert 'RuntimeError("two' in loud.err
    assert "Traceback" in cli("-v", "explain", model).err
    assert "Traceback" not in cli("explain", model).err


def test_a_library_that_does_not_load(cli, model: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("libtvm.so: cannot open shared object file")

    monkeypatch.setattr(api, "explain", fail)
    done = cli("explain", model)
    assert done.status == 1
    assert "libtvm.so" in done.err
    assert "run `edgeconv doctor`" in done.err


def test_verbose_logs_the_stages(cli, model: Path) -> None:
    quiet, loud = cli("explain", model), cli("explain", model, "-v")
    assert quiet.err == ""
    assert "edgeconv.cli: choosing schedules" in loud.err
    assert quiet.out == loud.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help(cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.status == 0
    assert f"Example:\n    edgeconv {command}" in done.out
    assert done.out == cli(command, "-h").out


def test_overall_help_and_version(cli) -> None:
    done = cli("--help")
    assert done.status == 0
    for command in COMMANDS:
        assert f"  {command} " in done.out
    assert "..." not in done.out.partition("Options:")[2]  # no summary is cut off
    assert cli("--version").out == f"edgeconv {__version__}\n"


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["compile", "a", "b"], ["--colour"]])
def test_wrong_usage(cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.status == 2
    assert "Error: " in done.err


def test_a_reader_that_goes_away(artifact: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = f'"{sys.executable}" -m edgeconv inspect "{artifact}" --json'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 141)
