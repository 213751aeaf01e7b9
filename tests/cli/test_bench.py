"""`edgeconv bench` and `edgeconv report`: files, tables, errors, on engines of known times; and
once for real.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeconv.benchmarks import records, running, worker
from edgeconv.benchmarks.peers import PEERS
from tests.benchmarks.results import SESSION, measured
from tests.cli.conftest import Cli


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the worker was asked; edgeconv takes 1 ms, ONNX Runtime 2 ms, TFLite fails."""
    asked: list[dict[str, Any]] = []

    def fake(models: dict[str, Path], engines: Sequence[str], **options: Any) -> dict[str, Any]:
        asked.append({"engines": list(engines), **options})
        failed = {"tflite": "cannot load this"} if "tflite" in engines else {}
        return {n: measured({"edgeconv": 1.0, "onnxruntime": 2.0}, failed) for n in models}

    monkeypatch.setattr(worker, "measure", fake)
    monkeypatch.setattr(records, "provenance", lambda: dict(SESSION))
    return asked


FILE = '{"programme": "%s", "settings": {}, "sessions": [], "cases": {"a": %s}}'
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
LAYER = "8x6x6->8 k3 p1 g2"
KEY = "8x6x6->8 k3x3 s1x1 p1,1,1,1 d1x1 g2"


def test_a_table_to_paste(cli: Cli, jobs: list[dict[str, Any]]) -> None:
    done = cli("bench", "layers", LAYER, "--engines", "onnxruntime")
    assert done.status == 0, done.err
    head, row = done.out.splitlines()
    assert head.startswith("case, ms ")
    assert row.startswith(KEY + " ")
    # flops as in the file: 2 · 36 pixels · 8 filters · 4 channels · 9 taps in 1 ms, peak 100
    assert row[len(KEY) :].split() == [
        *("1", "2", "2.00", "2.00", "to", "2.00", "0.0", "0", "0.00")
    ]
    assert jobs[0]["engines"] == ["edgeconv", "onnxruntime"]
    assert (jobs[0]["pace"].rounds, jobs[0]["pace"].seconds) == (50, None)


def test_results_are_kept_and_not_measured_twice(
    cli: Cli, jobs: list[dict[str, Any]], tmp_path: Path
) -> None:
    kept, table = tmp_path / "r.json", tmp_path / "r.csv"
    arguments = ["--engines", "onnxruntime", "--rounds", "7", "--json", kept, "--csv", table]
    groups = ["bench", "groups", "--channels", "6", "--size", "5", "--groups", "1,2,4,dw"]
    done = cli(*groups, *arguments)
    assert done.status == 0, done.err
    assert "skipped, not divisible: 4 groups of 6 channels" in done.err
    content = json.loads(kept.read_text(encoding="utf-8"))
    assert [c["groups"] for c in content["cases"].values()] == [1, 2, 6]
    case = next(iter(content["cases"].values()))
    assert case["engines"]["edgeconv"]["samples_ms"].count(";") == 9
    assert content["sessions"] == [SESSION]
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert [(r["engine"], float(r["median_ms"]), float(r["ratio"])) for r in rows[:2]] == [
        ("edgeconv", 1.0, 1.0),
        ("onnxruntime", 2.0, 2.0),
    ]
    assert len(jobs) == 3
    assert cli(*groups, *arguments).status == 0
    assert len(jobs) == 3
    other = cli(*groups, "--engines", "onnxruntime", "--rounds", "8", "--json", kept)
    assert other.status == 1
    assert "name another file, or give the same arguments" in other.err


def test_csv_on_stdout(cli: Cli, jobs: list[dict[str, Any]]) -> None:
    done = cli("bench", "layers", LAYER, "--engines", "tflite", "--csv", "-")
    if not PEERS["tflite"].available:
        pytest.skip(PEERS["tflite"].install)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [r["engine"] for r in rows] == ["edgeconv", "onnxruntime", "tflite"]
    assert rows[2]["failed"] == "cannot load this"
    assert "TFLite XNNPACK has no time" in done.err


def test_absent_engines_are_named_with_their_pip_line(
    cli: Cli, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        running, "find", lambda names: ([PEERS["edgeconv"], PEERS["onnxruntime"]], [PEERS["mnn"]])
    )
    done = cli("bench", "layers", LAYER)
    assert done.status == 0
    assert "MNN is absent; pip install -c constraints.txt mnn" in done.err


def test_without_the_reference_nothing_is_measured(
    cli: Cli, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "find", lambda _: ([PEERS["edgeconv"]], [PEERS["onnxruntime"]]))
    done = cli("bench", "layers", LAYER)
    assert done.status == 1
    assert "pip install -c constraints.txt onnxruntime" in done.err
    assert jobs == []


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["groups", "--channels", "six"], 2, "'six' is no list of positive numbers"),
        (["groups", "--groups", "half"], 1, "'half' is no group count"),
        (["groups", "--channels", "6", "--groups", "4"], 1, "no group count divides"),
        (["groups", "--engines", "nosuch"], 1, "no engine nosuch; there are edgeconv"),
        (["groups", "--threads", "999"], 1, "999 threads: this process may use"),
        (["groups", "--target", "raspberry-pi-4"], 1, "run the same command on the board"),
        (["groups", "--target", "nosuch"], 1, "nosuch"),
        (["groups", "--kernel", "0"], 2, "kernel"),
        (["groups", "--groups", ","], 2, "give numbers, or dw"),
        (["groups", "--json", "a.json", "--csv", "a.json"], 2, "names the file of --json"),
        (["groups", "--lock", "."], 1, "can't lock .: Is a directory"),
        (["groups", "--trials", "0"], 2, "trials"),
        (["groups", "--channels", "4", "--groups", "1", "--size", "2", "--kernel", "9"], 0, ""),
        (["groups", "--json", "/nosuch/r.json"], 1, "the folder /nosuch does not exist"),
        (["layers"], 2, "give shapes, or --shapes FILE"),
        (["layers", "8x6->8 k1"], 1, "shape '8x6->8 k1': it begins with"),
        (["layers", "--shapes", "nosuch"], 1, "no shapes of that name; there are"),
        (["layers", "8x6x6->4 k1", "--chain"], 1, "can't be chained"),
        (["nets", "nosuch"], 1, "no network 'nosuch'; there are mobilenetv1"),
        (["nosuch.onnx"], 1, "nosuch.onnx does not exist"),
        (["scaling", "--groups", "7"], 1, "7 groups do not divide 128"),
        (["paper", "nosuch"], 2, "no table 'nosuch'; there are gspc"),
        (["cold", "nosuch"], 1, "no network 'nosuch'"),
        (["check", "--baseline", "/nosuch.json"], 1, "no baseline for nosuch"),
        (["nosuch"], 2, "No such command"),
    ],
)
def test_bad_arguments(
    cli: Cli, jobs: list[dict[str, Any]], arguments: list[str], status: int, reason: str
) -> None:
    done = cli("bench", *arguments)
    assert done.status == status, done.err
    assert reason in done.err
    assert status == 0 or jobs == []


def test_an_onnx_file_in_place_of_a_command(
    cli: Cli, jobs: list[dict[str, Any]], model: Path
) -> None:
    done = cli("bench", model, "--engines", "onnxruntime", "--seconds", "0.5")
    assert done.status == 0, done.err
    assert done.out.splitlines()[1].startswith("net ")
    assert jobs[0]["profile"]
    assert jobs[0]["pace"].seconds == 0.5


def test_open_dimensions_need_a_shape(cli: Cli, jobs: list[dict[str, Any]], dynamic: Path) -> None:
    done = cli("bench", dynamic)
    assert done.status == 1
    assert "--input-shape NAME=" in done.err
    done = cli("bench", dynamic, "--input-shape", "x=1x8x6x6", "--engines", "onnxruntime")
    assert done.status == 0, done.err


def test_names_of_networks(cli: Cli) -> None:
    done = cli("bench", "nets", "--list")
    assert {"mobilenetv2", "resnet34_g8", "squeezenet"} <= set(done.out.split())


def test_noise_is_told_or_refused(
    cli: Cli, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(models: Any, *_: Any, **__: Any) -> dict[str, Any]:
        medians = {"edgeconv": 1.0, "onnxruntime": 2.0}
        return {"network": measured(medians, loop_ms=[1.0] * 5 + [1.5] * 5)}

    monkeypatch.setattr(worker, "measure", noisy)
    done = cli("bench", "layers", LAYER)
    assert done.status == 0
    assert f"{KEY} (noisy)" in done.out
    assert "the machine was not steady" in done.err
    done = cli("bench", "layers", LAYER, "--strict")
    assert done.status == 1
    assert "took 50% longer in some rounds" in done.err


def test_compare(cli: Cli, jobs: list[dict[str, Any]], tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert cli("bench", "layers", LAYER, "--json", old).status == 0
    slow = old.read_text(encoding="utf-8").replace(
        '"ratio": [2.0, 2.0, 2.0]', '"ratio": [1.5, 1.5, 1.5]'
    )
    new.write_text(slow, encoding="utf-8")
    same = cli("bench", "compare", old, old)
    assert same.status == 0, same.err
    assert "same" in same.out
    for command in (("bench", "compare"), ("bench", "--compare")):
        done = cli(*command, old, new)
        assert done.status == 1
        assert "1.333" in done.out
        assert "slower" in done.out
        assert "1 of 1 case slower or failing" in done.err
    assert cli("bench", "compare", old, new, "--tolerance", "0.5").status == 0
    missing = cli("bench", "compare", old, tmp_path / "none.json")
    assert missing.status == 1
    assert "not a result file" in missing.err


def test_report(cli: Cli, jobs: list[dict[str, Any]], tmp_path: Path) -> None:
    kept, charts = tmp_path / "r.json", tmp_path / "charts"
    groups = ["bench", "groups", "--channels", "6", "--size", "5", "--groups", "1,dw"]
    assert cli(*groups, "--engines", "onnxruntime", "--json", kept).status == 0
    done = cli("report", kept, "-o", tmp_path / "report.html", "--charts", charts)
    assert done.status == 0, done.err
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(list(charts.glob("*.svg"))) == 2  # lines, roofline
    done = cli("report", kept, "-o", tmp_path / "page.md", "--charts", charts)
    assert done.status == 0, done.err
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "## Latency by group count" in text
    assert "| 6x5x5->6 k3x3 s1x1 p1,1,1,1 d1x1 g6 | 1 | 2 | 2.00 | 2.00 to 2.00 |" in text
    linked = re.findall(r"!\[[^]]*\]\((.*?)\)", text)
    assert sorted(tmp_path / link for link in linked) == sorted(charts.iterdir())
    nowhere = cli("report", kept, "-o", tmp_path / "page.md", "--charts", tmp_path / "a" / "b")
    assert nowhere.status == 1
    assert "does not exist" in nowhere.err
    assert cli("report", kept, "-o", tmp_path / "page.txt").status == 2
    assert cli("report", tmp_path / "none.json").status == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "it is no JSON object"),
        ('{"programme": "layers", "settings": {}, "cases": {}}', "'sessions' is missing"),
        (FILE % ("layers", "5"), "case 'a' is no JSON object"),
        (FILE % ("layers", '{"engines": {"foo": {"median_ms": 1}}}'), "no engine 'foo'"),
        (
            FILE % ("layers", '{"engines": {"mnn": {"median_ms": NaN}}}'),
            "of mnn is nan",
        ),
        (
            FILE % ("nets", '{"engines": {"mnn": {"median_ms": 1}}}'),
            "KeyError 'threads';",
        ),
        (FILE % ("nosuch", "{}"), "of programme 'nosuch', which is unknown"),
    ],
)
def test_files_that_are_no_results(cli: Cli, tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    for ending in ("html", "md"):
        done = cli("report", path, "-o", tmp_path / f"page.{ending}")
        assert done.status == 1
        assert reason in done.err
        assert not (tmp_path / f"page.{ending}").exists()
    if "not a result file" in done.err:
        for files in ((path, path), (RESULTS / "nets.json", path)):
            done = cli("bench", "compare", *files)
            assert done.status == 1
            assert reason in done.err


def test_results_without_cases(cli: Cli, jobs: list[dict[str, Any]], tmp_path: Path) -> None:
    empty, full = tmp_path / "empty.json", tmp_path / "full.json"
    empty.write_text(FILE.replace('"a": %s', "") % "layers", encoding="utf-8")
    assert cli("bench", "layers", LAYER, "--engines", "onnxruntime", "--json", full).status == 0
    done = cli("report", empty, "-o", tmp_path / "page.md")
    assert done.status == 1
    assert "hold nothing to show" in done.err
    done = cli("report", empty, full, "-o", tmp_path / "page.md")
    assert done.status == 0, done.err
    assert "empty.json holds no cases" in done.err
    done = cli("bench", "compare", empty, full)
    assert done.status == 1
    assert "no case with times in common" in done.err


def test_a_real_run(cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "r.json"
    arguments = ["--engines", "onnxruntime", "--rounds", "6", "--json", kept]
    done = cli("bench", "layers", LAYER, *arguments)
    assert done.status == 0, done.err
    content = json.loads(kept.read_text(encoding="utf-8"))
    (case,) = content["cases"].values()
    for engine in case["engines"].values():
        low, high = engine["interval_ms"]
        assert 0 < low <= engine["median_ms"] <= high < 50
        assert engine["rounds"] <= 6
        assert engine["error"] < 1e-5
        assert engine["samples_ms"].count(";") == 5
    assert len(case["noise"]["loop_ms"].split()) == 6
    assert content["sessions"][0]["peak_gflops_one_core"] > 1
    assert content["sessions"][0]["memory_gb_s_one_core"] > 0.1
    assert cli("report", kept, "-o", tmp_path / "r.html").status == 0
