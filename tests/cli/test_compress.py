"""`edgeconv compress`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest


def test_says_what_it_did(cli, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    done = cli("compress", model, "--ratio", 1.1, "-o", path)
    assert done.status == 0, done.err
    assert done.err == ""
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert rows[1].startswith("stem 16x8x3x3 ")
    assert {"wide it is depthwise", "half it has 2 groups", "mix it is 1×1"} <= set(rows)
    assert f"written     {path} (" in done.out
    assert "on noise" in done.out
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_json_and_calibration(cli, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    x = np.random.default_rng(0).standard_normal((6, 8, 12, 12)).astype(np.float32)
    np.savez(data, x=x)
    path = tmp_path / "small.onnx"
    done = cli("compress", model, "--energy", 0.5, "--calibration", data, "-o", path, "--json")
    found = done.json
    assert found["output"] == str(path)
    assert found["bytes"] == path.stat().st_size
    assert found["errors_on"] == "calibration data"
    assert found["layers"][0]["name"] == "stem"
    assert found["layers"][0]["energy"] >= 0.5
    assert found["ratio"] == found["macs_before"] / found["macs_after"] > 1
    np.save(tmp_path / "data.npy", x)
    bare = ("--calibration", tmp_path / "data.npy", "-o", path, "--json")
    assert cli("compress", model, "--energy", 0.5, *bare).json["errors"] == found["errors"]


def test_output_is_named_after_the_model(cli, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("compress", model, "--rank", 1).status == 0
    assert [p.name for p in tmp_path.iterdir()] == ["net.compressed.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say how far to go"),
        (["--ratio", 100], "a ratio of 100 is out of reach"),
        (["--ratio", 2, "--skip", "nope"], "no convolution is called 'nope'"),
        (["--ratio", 2, "--only", "mix"], "no dense convolution"),
        (["--ratio", 2, "--calibration", "none.npz"], "none.npz does not exist"),
    ],
)
def test_failures(cli, model: Path, tmp_path: Path, arguments: list[object], message: str) -> None:
    done = cli("compress", model, *arguments, "-o", tmp_path / "small.onnx")
    assert done.status == 1
    assert done.err.startswith("error: ")
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit(cli, model: Path, artifact: Path, tmp_path: Path) -> None:
    assert "compiled already" in cli("compress", artifact, "--ratio", 2).err
    assert "does not exist" in cli("compress", tmp_path / "no.onnx", "--ratio", 2).err
    assert "it is an input" in cli("compress", model, "--ratio", 2, "-o", model).err
    wrong = cli("compress", model, "--ratio", 2, "--calibration", model)
    assert wrong.status == 2
    assert "'--calibration'" in wrong.err


def test_open_shapes(cli, dynamic: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    done = cli("compress", dynamic, "--rank", 2, "-o", path)
    assert done.status == 1
    assert "--input-shape NAME=1x3x224x224" in done.err
    done = cli("compress", dynamic, "--rank", 2, "--input-shape", "x=1x8x9x7", "-o", path)
    assert done.status == 0
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2].dim_param == "H"
