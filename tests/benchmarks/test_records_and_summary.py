"""Result files that go on where they stopped, and the arithmetic of comparisons."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from edgeconv.benchmarks import default_study, layer_classes, nets, records, report
from edgeconv.benchmarks.records import Records
from edgeconv.benchmarks.summary import compare, failures, geometric_mean, losses, worst
from edgeconv.errors import EdgeconvError


@pytest.fixture(autouse=True)
def _no_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance measures the machine's peak, which these tests do not need."""
    session = {
        "date": "2026-01-02T03:04:05+00:00",
        "command": "layer_classes -n 2",
        "commit": "abc",
        "cpu": "A CPU",
        "llvm_cpu": "generic",
        "peak_gflops_one_core": 100.0,
        "python": "3.11.7",
        "versions": {"numpy": "2.0"},
    }
    monkeypatch.setattr(records, "provenance", lambda: dict(session))


def times(**medians: float) -> dict[str, dict[str, Any]]:
    """Engines with these medians in ms."""
    return {
        name: {"median_ms": ms, "p10_ms": ms, "p90_ms": ms, "error": 0.0}
        for name, ms in medians.items()
    }


def test_a_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    first = Records(path, "p", {"threads": 1})
    first.add("a", {"x": 1})
    first.add("b", {"x": 2})
    again = Records(path, "p", {"threads": 1})
    assert "a" in again
    assert "c" not in again
    again.add("c", {"x": 3})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {k: (c["x"], c["session"]) for k, c in content["cases"].items()} == {
        "a": (1, 0),
        "b": (2, 0),
        "c": (3, 1),
    }
    assert len(content["sessions"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    Records(path, "p", {"threads": 1}).add("a", {})
    with pytest.raises(EdgeconvError, match="settings"):
        Records(path, "p", {"threads": 2})
    with pytest.raises(EdgeconvError, match="programme"):
        Records(path, "q", {"threads": 1})


def test_a_damaged_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"programme": "p"', encoding="utf-8")
    with pytest.raises(EdgeconvError, match="not a result file"):
        Records(path, "p", {})
    assert path.read_text(encoding="utf-8") == '{"programme": "p"'


def test_measured_layers_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def fake(conv: Any, engines: Any, **_: Any) -> dict[str, Any]:
        measured.append(str(conv))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return {"alone": times(edgeconv=1.0, onnxruntime=2.0)}

    monkeypatch.setattr(layer_classes, "measure", fake)
    arguments = ["p", "-o", str(tmp_path / "l.json"), "-n", "2", "--classes", "depthwise,dense"]
    monkeypatch.setattr("sys.argv", [*arguments, "--engines", "edgeconv"])
    with pytest.raises(KeyboardInterrupt):
        layer_classes.main()
    layer_classes.main()
    assert len(measured) == 5  # four layers, one of them twice because it was interrupted
    assert measured[2] == measured[3]
    assert len(set(measured)) == 4


def test_the_fastest_other_engine_counts() -> None:
    found = compare("x", {**times(edgeconv=2.0, mnn=3.0, ncnn=5.0), "tflite": {"failed": "no"}})
    assert found is not None
    assert (found.peer, found.ratio) == ("mnn", 1.5)
    assert compare("x", times(mnn=3.0)) is None
    assert compare("x", times(edgeconv=3.0)) is None


def test_means_and_losses() -> None:
    ratios = {"a": 4.0, "b": 0.25, "c": 0.5, "d": 2.0}
    found = [compare(k, times(edgeconv=1.0, mnn=r)) for k, r in ratios.items()]
    kept = [c for c in found if c is not None]
    assert geometric_mean(c.ratio for c in kept) == pytest.approx(1.0)
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(geometric_mean([]))
    assert [c.case for c in losses(kept)] == ["b", "c"]
    least = worst(kept)
    assert least is not None
    assert least.case == "b"


def layer_content() -> dict[str, Any]:
    """Two depthwise layers, one of which has no chain, and an engine that failed once."""
    first = {
        "alone": times(edgeconv=1.0, tflite=0.5),
        "chain": {**times(edgeconv=1.0, tflite=4.0), "mnn": {"failed": "took longer\nthan that"}},
    }
    cases = {
        "depthwise: a": {"class": "depthwise", "layer": "a", "measurements": first},
        "depthwise: b": {
            "class": "depthwise",
            "layer": "b",
            "measurements": {"alone": times(edgeconv=2.0, tflite=2.0)},
        },
    }
    return {"programme": "layer_classes", "settings": {}, "sessions": [], "cases": cases}


def test_the_summary_of_layers() -> None:
    text = layer_classes.summary(layer_content())
    rows = [line for line in text.splitlines() if line.startswith("| Depthwise")]
    assert [row.split("|")[2:7] for row in rows] == [
        [" 2 ", " chain ", " 2.00 ", " 1.00 ", " 0 "],  # sqrt(4 · 1): b counts alone
        [" 2 ", " alone ", " 0.71 ", " 0.50 ", " 1 "],
    ]
    assert "- alone: `a`: 0.50 (TFLite XNNPACK 0.5 ms, edgeconv 1 ms)" in text
    assert "MNN, 1 of the measurements: took longer" in text


def test_disturbed_times_are_counted() -> None:
    content = layer_content()
    assert "disturbed" not in layer_classes.summary(content)
    content["cases"]["depthwise: b"]["measurements"]["alone"]["tflite"]["disturbed"] = 3
    assert "1 of 7 times include calls that other processes disturbed" in layer_classes.summary(
        content
    )


def test_failures_are_grouped_by_engine_and_reason() -> None:
    cases = {k: c["measurements"] for k, c in layer_content()["cases"].items()}
    assert failures(cases) == {("mnn", "took longer"): ["depthwise: a"]}


def test_the_summary_of_networks() -> None:
    cases = {
        f"{name}, 1 thread": {"network": name, "threads": 1, "engines": engines}
        for name, engines in {
            "n": times(edgeconv=2.0, onnxruntime=4.0, mnn=3.0),
            "m": times(edgeconv=2.0, onnxruntime=1.0),
        }.items()
    }
    text = nets.summary({"cases": cases})
    assert "| n | **2** | 4 | 3 | 1.50 |" in text
    assert "| m | 2 | **1** | – | 0.50 |" in text
    assert "0.87 |" in text  # sqrt(1.5 · 0.5)


def test_the_summary_of_networks_tells_what_threads_gain() -> None:
    cases = {
        f"n, {threads}": {"network": "n", "threads": threads, "engines": engines}
        for threads, engines in {
            1: times(edgeconv=3.0, onnxruntime=4.0),
            2: times(edgeconv=1.6, onnxruntime=3.2, mnn=9.0),
        }.items()
    }
    table = nets.summary({"cases": cases}).split("times as fast as 1\n\n")[1]
    assert "| n | 1.88 | 1.25 | – |" in table


def test_the_ratio_of_default_knobs() -> None:
    def tried(default: float, best: float) -> dict[str, float]:
        return {"default_ms": default, "best_ms": best}

    case = {"chosen": "lane_groups"}
    cases = {
        "a": {**case, "families": {"lane_groups": tried(1.2, 1.0)}},
        "b": {
            **case,
            "families": {"lane_groups": tried(1.0, 1.0), "grouped_spatial_pack": tried(0.8, 0.5)},
        },
    }
    assert default_study.ratios(cases, "lane_groups") == [1.2, 1.0]
    assert default_study.ratios(cases, "grouped_spatial_pack") == [1.6]
    assert default_study.ratios(cases, None) == [1.2, 2.0]
    assert "| lane_groups | 2 | 1.100 | 1.180 | 1.200 |" in default_study.summary({"cases": cases})


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Records(tmp_path / "layers.json", "layer_classes", {"engines": ["mnn"]})
    for key, case in layer_content()["cases"].items():
        layers.add(key, case)
    page = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["report", str(layers.path), "-o", str(page)])
    report.main()
    text = page.read_text(encoding="utf-8")
    assert "## Random layers" in text
    assert "| Depthwise" in text
    assert "2026-01-02, A CPU (generic, multiply-add peak 100.0 GFLOP/s a core)" in text
    assert "All numbers: `layers.json`" in text
    monkeypatch.chdir(tmp_path.parent)
    report.main()
    assert f"All numbers: `{tmp_path.name}/layers.json`" in page.read_text(encoding="utf-8")
    Records(tmp_path / "x.json", "unknown", {}).add("a", {})
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "x.json"), "-o", str(page)])
    with pytest.raises(EdgeconvError, match="unknown"):
        report.main()
