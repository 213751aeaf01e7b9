"""`edgeconv tune` killed at random moments: nothing that was reported is lost, nothing repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgeconv import api, targets
from edgeconv.tuning import plan, records, verdict
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.journal import Journal
from edgeconv.tuning.record import knobs_from_json
from edgeconv.tuning.runner import ProcessRunner
from tests.device.boards import children, until

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20


def start(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    options = ["--threads", "1", "--records", str(folder), "--seed", "3", "--json", "--quiet"]
    options += ["--trials", "48", "--early-stop", "48", "--report", str(folder / "report.html")]
    return subprocess.Popen(
        [sys.executable, "-m", "edgeconv", "tune", str(model), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )


def lines(folder: Path) -> set[str]:
    """Checksums of the records on the disk."""
    found = [records.read_file(path) for path in records.files_in(folder)]
    assert not [fault for _, faults in found for fault in faults]
    return {s.record.checksum for stored, _ in found for s in stored}


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    from tests.cli.conftest import _convolutions

    model = _convolutions(tmp_path / "net.onnx", [1, 8, 20, 20])
    whole = tmp_path / "whole"
    whole.mkdir()
    begin = time.monotonic()
    out, err = start(model, whole).communicate(timeout=1200)
    assert out, err
    wanted, length = json.loads(out), time.monotonic() - begin
    draw = random.Random(5)
    kills = run = 0
    while kills < KILLS:
        run += 1
        folder = tmp_path / str(run)
        folder.mkdir()
        seen = set[str]()
        while kills < KILLS:
            process = start(model, folder)
            try:
                process.wait(draw.uniform(0.1, 0.8) * length)
                break  # it has finished
            except subprocess.TimeoutExpired:
                workers = children(process.pid)
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                until(lambda gone=workers: not any(map(lives, gone)))  # type: ignore[misc]
            now = lines(folder)
            assert seen <= now
            seen = now
        check(model, folder, wanted)
        assert seen <= lines(folder)


def check(model: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """Finish the run: all is there, once, and as good as undisturbed."""
    out, err = start(model, folder).communicate(timeout=1200)
    assert out, err
    found = json.loads(out)
    (path,) = folder.glob(".journal/*/*.jsonl")
    trials = Counter(
        json.dumps([e["task"], t["family"], t["knobs"]])
        for e in Journal(path).of("batch")
        for t in e["trials"]
    )
    assert set(trials.values()) == {1}
    assert found["trials"] == wanted["trials"] == sum(trials.values())
    compare(model, found, wanted)


def compare(model: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """What both runs found, timed in turns: the machine was not as busy during one as the other."""
    items = plan.items(api.import_graph(model), targets.host(), 1)
    device = plan.with_threads(targets.host(), 1)
    runner = ProcessRunner(1)
    for item, mine, theirs in zip(items, found["tasks"], wanted["tasks"], strict=True):
        first, second = (
            Candidate(t["schedule"], knobs_from_json(t["schedule"], t["knobs"]))
            for t in (theirs, mine)
        )
        if first != second:
            outcomes = runner.run(item.task, device, [first, second], verdict.PLAN)
            assert outcomes[1].ratio < 1.15, (item.workload, first, second)
    runner.close()


def lives(pid: int) -> bool:
    """Whether a process still runs."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
