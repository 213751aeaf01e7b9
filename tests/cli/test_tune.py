"""`edgeconv tune`: a tiny network tuned for real, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from edgeconv.cli.tune import parse_budget
from edgeconv.tuning import records
from edgeconv.tuning.journal import Journal


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("90s", 90), ("45", 45), ("1h", 3600), ("1h30m", 5400), ("2h0m5s", 7205)],
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds
    assert parse_budget("none") is None


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "soon", "-5m", "5x", "m", "1.5h", "30m1h", "9" * 400 + "h"]
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        parse_budget(text)


def test_one_layer_for_real(
    cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuned, compiled with its record, and nothing left to do the second time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeconv.tuning.runner.COOL_DOWN_S", ())  # the tests' machine is busy
    (tmp_path / "mine").mkdir()
    command = ("tune", model, "--threads", 1, "--records", "mine", "--tasks", "stem")
    command = (*command, "--trials", 6, "--json", "--quiet")
    done = cli(*command)
    assert done.status == 0, done.err
    found = done.json
    (task,) = found["tasks"]
    assert (task["layers"], task["trials"]) == (["stem"], 6)
    assert task["state"] in ("tuned", "default kept")
    assert task["speedup"] >= 1
    assert found["network"] is None or found["network"]["error"] <= 1e-4
    assert Path(found["report"]).read_text().startswith("<!doctype html>")
    (path, *_) = records.files_in(Path("mine"))
    assert records.read_file(path)[0][0].record.trials == 6
    layers = cli("explain", model, "--threads", 1, "--records", "mine", "--json").json["layers"]
    reasons = {layer["name"]: layer["reason"] for layer in layers}
    assert "6 trials" in reasons["stem"]
    with path.open("a") as file:
        file.write("garbage\n")
    done = cli(*command)
    assert f"warning: {path}:2: record skipped: not JSON" in done.err
    again = done.json
    assert again["trials"] == 6
    assert again["network"] == found["network"]
    (journal,) = Path("mine").glob(".journal/*/*.jsonl")
    assert len(Journal(journal).of("batch")) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--target", "raspberry-pi-4"), 1, "is not this machine, and tuning measures: name a"),
        (("--threads", 1000), 1, "1000 threads can't be measured"),
        (("--tasks", "nothing*", "--threads", 1), 1, "no task is called 'nothing*'"),
        (("--budget", "soon"), 2, "'soon' is no time"),
        (("--trials", 0), 2, "--trials"),
        (("--seed", 2**31), 2, "--seed"),
        (("--lock", "/nowhere/lock", "--threads", 1), 1, "can't lock /nowhere/lock"),
        (("--device", "rpc://127.0.0.1:1/x", "--timeout", 2), 1, "no tracker"),
        (("--report", "/nowhere/x.html"), 1, "the folder /nowhere does not exist"),
    ],
)
def test_what_is_refused(
    cli,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("tune", model, "--records", tmp_path, *arguments)
    assert done.status == status
    assert words in " ".join(done.err.replace("│", " ").split())
    assert not list(tmp_path.glob("**/*.jsonl"))


def test_a_network_without_convolutions(cli, pair: Path, tmp_path: Path) -> None:
    done = cli("tune", pair, "--threads", 1, "--records", tmp_path)
    assert done.status == 1
    assert "no convolutions or pools: there is nothing to tune" in done.err
