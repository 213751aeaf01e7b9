"""A tune over RPC on an emulated AArch64 board: that it works, not how fast anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeconv.tuning import records
from tests.cli.conftest import Cli, cli, folder, model
from tests.e2e.device.test_emulated_board import address

__all__ = ["address", "cli", "folder", "model"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_two_layers(
    cli: Cli, model: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeconv.tuning.runner.COOL_DOWN_S", ())  # its times are noise
    (tmp_path / "mine").mkdir()
    command = ("tune", model, "--target", "raspberry-pi-4", "--threads", 1, "--records", "mine")
    command = (*command, "--device", address, "--timeout", 120, "--quiet", "--json")
    done = cli(*command, "--tasks", "stem", "--tasks", "half", "--trials", 8)
    assert done.status == 0, done.err
    assert "is emulated: times and records made there say nothing" in done.err
    found = done.json
    assert [t["trials"] for t in found["tasks"]] == [8, 8]
    assert found["failures"] == 0
    network = found["network"]
    assert network is None or (network["error"] <= 1e-4 and "emulated" in network["untimed"])
    stored = [s for path in records.files_in(Path("mine")) for s in records.read_file(path)[0]]
    assert {s.record.folder for s in stored} == {"raspberry-pi-4"}
    options = ("--target", "raspberry-pi-4", "--threads", 1, "--records", "mine")
    assert cli("compile", model, *options, "--json").json["tuned_layers"] == 2
