"""`edgeconv explain`, `profile` and `targets`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeconv import targets


def test_explain(cli, model: Path) -> None:
    done = cli("explain", model, "--target", "jetson-nano", "--threads", 4)
    assert done.status == 0
    title, header, *rows = done.out.splitlines()
    assert title == "net.onnx on jetson-nano (cortex-a57, 4 lanes), 4 threads"
    assert header.split()[:7] == ["#", "Layer", "Operator", "Shapes", "MMAC", "Schedule", "Knobs"]
    assert any(" stem " in row and "lanes=4" in row for row in rows)


def test_explain_json(cli, model: Path) -> None:
    found = cli("explain", model, "--target", "x86-avx2", "--threads", 2, "--json").json
    assert (found["target"]["name"], found["threads"]) == ("x86-avx2", 2)
    stem = next(layer for layer in found["layers"] if layer["name"] == "stem")
    assert stem["schedule"]
    assert stem["reason"]
    assert isinstance(stem["refused"], dict)


def test_explain_takes_no_artifact(cli, artifact: Path) -> None:
    done = cli("explain", artifact)
    assert done.status == 1
    assert "is compiled already" in done.err


def test_profile(cli, artifact: Path) -> None:
    done = cli("profile", artifact, "--repeat", 3)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("net on host (")
    for title in ("ms", "% of time", "GFLOP/s", "% of peak", "KiB moved"):
        assert f"  {title}" in lines[1]
    assert lines[-1].split()[0] == "total"
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("network", lambda row: row["number"]),
        ("time", lambda row: -row["ms"]),
        ("peak", lambda row: row["peak"] or 2),
        ("bytes", lambda row: -row["bytes"]),
    ],
)
def test_profile_orders(cli, artifact: Path, order: str, key) -> None:
    found = cli("profile", artifact, "--repeat", 2, "--sort", order, "--json").json
    keys = [key(row) for row in found["layers"]]
    assert keys == sorted(keys)
    assert found["total_ms"] == pytest.approx(sum(row["ms"] for row in found["layers"]))
    assert found["peak_gflops"] > 0


@pytest.mark.parametrize("arguments", [["--sort", "colour"], ["--repeat", "0"]])
def test_profile_usage(cli, artifact: Path, arguments: list[str]) -> None:
    assert cli("profile", artifact, *arguments).status == 2


def test_targets(cli) -> None:
    done = cli("targets")
    assert done.status == 0
    names = [line.split()[0] for line in done.out.splitlines()[1:]]
    assert names == targets.names()
    assert "this machine" in done.out.splitlines()[1]
    found = cli("targets", "--json").json["targets"]
    assert [target["name"] for target in found] == names
    assert found[0]["runs_here"]


def test_one_target(cli) -> None:
    done = cli("targets", "raspberry-pi-4")
    assert done.status == 0
    assert "nominal peak  12.0 GFLOP/s a core" in done.out
    found = cli("targets", "raspberry-pi-4", "--json").json
    assert (found["cpu"], found["arch"], found["lanes"]) == ("cortex-a72", "aarch64", 4)


def test_a_target_of_your_own(cli, tmp_path: Path) -> None:
    text = Path(targets.__file__).with_name("raspberry-pi-4.toml").read_text()
    (tmp_path / "board.toml").write_text(text.replace("cores = 4", "cores = 3"))
    assert cli("targets", tmp_path / "board.toml", "--json").json["cores"] == 3


def test_an_unknown_target(cli) -> None:
    done = cli("targets", "raspberry-pi-44")
    assert done.status == 1
    assert "did you mean 'raspberry-pi-4'?" in done.err


def test_a_machine_without_vectors_still_lists(cli, monkeypatch) -> None:
    load = targets.load

    def refuse(name: str) -> targets.Device:
        if name == "host":
            raise targets.host.__globals__["TargetError"]("this machine has no vectors")
        return load(name)

    monkeypatch.setattr(targets, "load", refuse)
    done = cli("targets")
    assert done.status == 0
    assert "raspberry-pi-4" in done.out
    assert "warning: host: this machine has no vectors" in done.err
