"""`edgeconv run`: inputs, outputs and latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgeconv.cli.inputs import split
from edgeconv.cli.run import write_npz
from edgeconv.errors import EdgeconvError

X = np.random.default_rng(1).standard_normal((1, 8, 12, 12)).astype(np.float32)


@pytest.fixture
def x(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, X)
    return path


def test_results_are_those_of_onnx_runtime(
    cli, model: Path, artifact: Path, x: Path, tmp_path: Path
) -> None:
    (wanted,) = onnxruntime.InferenceSession(model).run(None, {"x": X})
    for source in (model, artifact):
        path = tmp_path / f"{source.suffix}.npz"
        done = cli("run", source, "--input", f"x={x}", "-o", path, "--repeat", 2)
        assert done.status == 0, done.err
        assert f"written  {path}" in done.out
        assert "latency  median " in done.out
        with np.load(path) as results:
            assert np.abs(results["y"] - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_json(cli, artifact: Path) -> None:
    found = cli("run", artifact, "--seed", 3, "--repeat", 4, "--min-repeat-ms", 0, "--json").json
    assert found["seed"] == 3
    assert found["threads"] == 1
    assert len(found["latency"]["samples_ms"]) == 4
    (y,) = found["outputs"]
    assert (y["name"], y["shape"], y["nonfinite"]) == ("y", [1, 4, 12, 12], 0)
    assert y["min"] < y["mean"] < y["max"]


def test_the_seed_decides(cli, artifact: Path) -> None:
    def outputs(seed: int) -> object:
        return cli("run", artifact, "--seed", seed, "--repeat", 0, "--json").json["outputs"]

    assert outputs(1) == outputs(1) != outputs(2)


def test_repeat_0_measures_nothing(cli, artifact: Path) -> None:
    assert "latency" not in cli("run", artifact, "--repeat", 0).out
    assert cli("run", artifact, "--repeat", 0, "--json").json["latency"] is None


def test_nan_is_json_and_a_warning(cli, pair_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    both = np.full((2, 3), np.nan, np.float32)
    np.savez(path, first=both, second=both)
    arguments = ("run", pair_artifact, "--input", path, "--repeat", 0)
    assert cli(*arguments, "--json").json["outputs"][0]["mean"] is None
    assert "output 'y' has 6 NaN or infinite values" in cli(*arguments).err


def test_inputs_by_name(cli, pair_artifact: Path, tmp_path: Path) -> None:
    first, second = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    np.savez(tmp_path / "both.npz", first=first, second=second)
    np.save(tmp_path / "one.npy", first)
    np.save(tmp_path / "two.npy", second)
    for given in (
        [f"--input={tmp_path}/both.npz"],
        [f"--input=first={tmp_path}/one.npy", f"--input=second={tmp_path}/two.npy"],
    ):
        done = cli("run", pair_artifact, *given, "--repeat", 0, "--json")
        assert done.status == 0, done.err
        assert done.json["outputs"][0]["mean"] == 3.0
    done = cli("run", pair_artifact, f"--input={tmp_path}/two.npy", "--repeat", 0)
    assert done.status == 1
    assert "the model has 2 inputs (first, second); say which" in done.err


def test_splitting_names_from_paths(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.npy").touch()
    assert split("x=y.npy") == ("x", Path("y.npy"))
    assert split("in:0=dir/y.npy") == ("in:0", Path("dir/y.npy"))
    assert split("x.npz") == (None, Path("x.npz"))
    assert split("a=b.npy") == (None, Path("a=b.npy"))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (X.astype(np.float64), "input 'x' is float64, the model wants float32; convert it first"),
        (X[0], "input 'x' has shape [8, 12, 12], the model wants [1, 8, 12, 12]"),
        (np.array([{}]), "not a .npy file of plain numbers"),
    ],
)
def test_arrays_that_do_not_fit(
    cli, artifact: Path, tmp_path: Path, array: np.ndarray, words: str
) -> None:
    np.save(tmp_path / "x.npy", array)
    done = cli("run", artifact, "--input", tmp_path / "x.npy")
    assert done.status == 1
    assert done.out == ""
    assert words in done.err


@pytest.mark.parametrize("ending", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04torn", b"\x93NUMPY\x01\x00v"])
def test_files_that_hold_no_arrays(
    cli, artifact: Path, tmp_path: Path, ending: str, content: bytes
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    done = cli("run", artifact, "--input", path)
    assert done.status == 1
    assert f"{path} is not a {ending} file of plain numbers" in done.err


def test_wrong_names_in_npz(cli, artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", data=X)
    done = cli("run", artifact, "--input", tmp_path / "x.npz")
    assert done.status == 1
    assert "missing: x" in done.err
    assert "unknown: data" in done.err


def test_swapped_endings(cli, artifact: Path, x: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(x.read_bytes())
    assert "is a .npy file" in cli("run", artifact, "--input", tmp_path / "x.npz").err
    np.savez(tmp_path / "z.npz", x=X)
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    assert "is a .npz file" in cli("run", artifact, "--input", tmp_path / "z.npy").err


def test_missing_input(cli, artifact: Path) -> None:
    done = cli("run", artifact, "--input", "x=nowhere.npy")
    assert (done.status, done.err) == (1, "error: nowhere.npy does not exist\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "x.txt"],
        ["--input", "x=y.npz"],
        ["--input", "=y.npy"],
        ["--input", "x.npy", "--seed", "1"],
        ["--seed", "-1"],
        ["--repeat", "-1"],
        ["--repeat", "x"],
        ["--warmup", "-1"],
        ["--min-repeat-ms", "-1"],
        ["--output", "y.npy"],
        ["--threads", "2"],
        ["--target", "host"],
        ["--input-shape", "x=1x8x12x12"],
    ],
)
def test_wrong_usage(cli, artifact: Path, arguments: list[str]) -> None:
    done = cli("run", artifact, *arguments)
    assert done.status == 2
    assert "Invalid value for " in done.err


def test_the_same_input_twice(cli, artifact: Path, x: Path) -> None:
    done = cli("run", artifact, "--input", f"x={x}", "--input", x)
    assert done.status == 2
    assert "input 'x' is given twice" in done.err


def test_output_in_no_folder(cli, artifact: Path, tmp_path: Path) -> None:
    done = cli("run", artifact, "-o", tmp_path / "none/y.npz")
    assert done.status == 1
    assert "does not exist" in done.err


def test_output_does_not_replace_an_input(cli, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=X)
    done = cli("run", artifact, "--input", path, "-o", path)
    assert done.status == 1
    assert "it is an input" in done.err


def test_npz_takes_any_name(tmp_path: Path) -> None:
    arrays = {name: np.arange(3.0) for name in ("file", "gpu_0/y:0", "args", "ü")}
    write_npz(tmp_path / "y.npz", arrays)
    with np.load(tmp_path / "y.npz") as found:
        assert sorted(found.files) == sorted(arrays)
        assert found["gpu_0/y:0"].tolist() == [0, 1, 2]


def test_a_full_disk_leaves_the_old_npz(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    path = tmp_path / "y.npz"
    path.write_text("old")
    with pytest.raises(EdgeconvError, match="No space left"):
        write_npz(path, {"y": X})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
