"""Regressions beyond noise, the check against a baseline, and the papers' tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeconv.benchmarks import cases, check, cold, networks, paper, records, running, worker
from edgeconv.benchmarks.compare import TOLERANCE, Change, compare, table
from edgeconv.benchmarks.noise import sentence
from edgeconv.benchmarks.records import Records, read
from edgeconv.benchmarks.running import Method
from edgeconv.errors import EdgeconvError
from edgeconv.targets import host
from edgeconv.workload import Conv2d
from tests.benchmarks.results import SESSION, content, layer, measured
from tests.cli.conftest import Cli, cli

__all__ = ["cli"]

TEXT = "8x4x4->8 k1x1 s1x1 p0,0,0,0 d1x1 g1"


def one(own: float, reference: float | None = 2.0, **facts: Any) -> dict[str, Any]:
    """A file with one case."""
    medians = {"edgeconv": own, **({} if reference is None else {"onnxruntime": reference})}
    return content("layers", {"a": layer(TEXT, medians, **facts)})


def verdict(old: dict[str, Any], new: dict[str, Any], tolerance: float = TOLERANCE) -> Change:
    (change,) = compare(old, new, tolerance)
    return change


def test_slower_faster_and_the_same() -> None:
    assert verdict(one(1.0), one(1.0)).verdict == "same"
    slower = verdict(one(1.0), one(1.2))
    assert slower.verdict == "slower"
    assert slower.is_regression
    assert slower.factor is not None
    assert slower.factor.value == pytest.approx(1.2, rel=1e-3)
    assert verdict(one(1.0), one(1.04)).verdict == "same"  # within the tolerance
    assert verdict(one(1.2), one(1.0)).verdict == "faster"
    assert verdict(one(1.0), one(1.2), tolerance=0.3).verdict == "same"


def test_the_speed_of_the_machine_cancels() -> None:
    change = verdict(one(1.0, 2.0), one(2.0, 4.0))
    assert change.verdict == "same"
    assert change.relative
    assert verdict(one(1.0, 2.0), one(1.0, 1.0)).verdict == "slower"
    absolute = verdict(one(1.0, None), one(2.0, None))
    assert (absolute.verdict, absolute.relative) == ("slower", False)


def test_a_wide_interval_is_no_regression() -> None:
    old, new = one(1.0), one(1.2)
    engine = new["cases"]["a"]["engines"]["onnxruntime"]
    engine["ratio"] = [2 / 1.2, 1.4, 2.3]
    change = verdict(old, new)
    assert change.verdict == "same"
    assert change.factor is not None
    assert change.factor.low < 1 < change.factor.high


def test_cases_that_come_go_break_and_mend() -> None:
    works, fails = one(1.0), one(1.0)
    fails["cases"]["a"]["engines"]["edgeconv"] = {"failed": "wrong result"}
    assert verdict(works, fails).verdict == "fails now"
    assert verdict(works, fails).is_regression
    assert verdict(fails, works).verdict == "works now"
    other = content("layers", {"b": layer(TEXT, {"edgeconv": 1.0})})
    found = {c.case: c.verdict for c in compare(works, other)}
    assert found == {"a": "gone", "b": "new"}
    rows = table(compare(works, other)).rows
    assert rows[0] == ["b", "–", "1", "–", "–", "new"]


def test_files_of_older_programmes_compare_too() -> None:
    def old(own: float) -> dict[str, Any]:
        engines = {n: {"median_ms": ms} for n, ms in {"edgeconv": own, "onnxruntime": 2.0}.items()}
        return content(
            "layer_classes", {"a": {"measurements": {"alone": engines, "chain": engines}}}
        )

    changes = compare(old(1.0), old(1.5))
    assert [(c.case, c.verdict) for c in changes] == [
        ("a (alone)", "slower"),
        ("a (chain)", "slower"),
    ]


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """edgeconv's times of the measurements to come, one each; ONNX Runtime's is 2 ms."""
    queue: list[float] = []

    def fake(models: Any, engines: Any, **_: Any) -> dict[str, Any]:
        medians = {"edgeconv": queue.pop(0), "onnxruntime": 2.0}
        return {name: measured(medians) for name in models}

    monkeypatch.setattr(worker, "measure", fake)
    monkeypatch.setattr(records, "provenance", lambda: dict(SESSION))
    return queue


def items() -> list[cases.CaseToRun]:
    """Two layers."""
    return [cases.of_layer(Conv2d.parse(t)) for t in ("8x4x4->8 k1", "8x4x4->8 k3 p1")]


def baseline() -> dict[str, Any]:
    """Both layers at 1 ms."""
    medians = {"edgeconv": 1.0, "onnxruntime": 2.0}
    return content("check", {i.key: layer(TEXT, medians) for i in items()})


def test_what_looks_slower_is_measured_again(speeds: list[float]) -> None:
    def verdicts() -> list[str]:
        found = check.run(baseline(), Method(check.ENGINES), items=items())
        return [c.verdict for c in found.changes]

    speeds += [1.0, 1.4, 1.0]  # the second layer once slow, then not
    assert verdicts() == ["same", "same"]
    speeds += [1.0, 1.4, 1.3]
    assert verdicts() == ["same", "slower"]
    speeds += [1.1, 1.1]  # below 15 %: not measured again
    assert verdicts() == ["same", "same"]
    assert speeds == []


def test_a_baseline_is_small_and_can_be_read(
    tmp_path: Path, speeds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "the_set", items)
    path = tmp_path / "baselines" / "cpu.json"
    with pytest.raises(EdgeconvError, match="no baseline for cpu"):
        check.read_baseline(path)
    speeds += [1.0, 1.0]
    assert check.write(path, Method(check.ENGINES)) == []
    found = check.read_baseline(path)
    assert found["cases"].keys() == {i.key for i in items()}
    assert "samples_ms" not in path.read_text(encoding="utf-8")
    speeds += [1.0, 1.0]
    outcome = check.run(found, Method(check.ENGINES), items=items())
    assert {c.verdict for c in outcome.changes} == {"same"}
    assert outcome.regressions == outcome.unknown == outcome.noisy == []


def test_a_baseline_has_no_noisy_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = items()
    tries = {first.key: 0, second.key: 0}

    def fake(case: cases.CaseToRun, _: Method) -> dict[str, Any]:
        tries[case.key] += 1
        noisy = case is second or tries[case.key] < 2
        loop = [1.0] * 5 + [1.5 if noisy else 1.0] * 5
        return measured({"edgeconv": 1.0, "onnxruntime": 2.0}, loop_ms=loop)

    monkeypatch.setattr(running, "measure", fake)
    monkeypatch.setattr(records, "provenance", lambda: dict(SESSION))
    monkeypatch.setattr(check, "the_set", lambda: [first, second])
    path = tmp_path / "cpu.json"
    assert check.write(path, Method(check.ENGINES)) == [second.key]
    assert list(read(path)["cases"]) == [first.key]
    assert tries == {first.key: 2, second.key: check.TRIES}
    monkeypatch.setattr(check, "the_set", lambda: [second])
    with pytest.raises(EdgeconvError, match="no baseline: the machine was not steady"):
        check.write(path, Method(check.ENGINES))


def test_what_a_baseline_lacks_is_tried_again_on_the_same_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = items()
    done: list[str] = []

    def fake(case: cases.CaseToRun, _: Method) -> dict[str, Any]:
        done.append(case.key)
        return measured({"edgeconv": 1.0, "onnxruntime": 2.0})

    here = {**SESSION, "llvm_cpu": host().cpu}
    monkeypatch.setattr(running, "measure", fake)
    monkeypatch.setattr(records, "provenance", lambda: dict(here))
    path, method = tmp_path / "cpu.json", Method(check.ENGINES)
    for commit, wanted in (
        ("abc1234", [first.key]),
        ("abc1234", [second.key]),
        ("abc1234-dirty", [first.key, second.key]),
        ("def5678", [first.key, second.key]),
    ):
        monkeypatch.setattr(check, "commit", lambda commit=commit: commit)
        chosen = [first] if wanted == [first.key] else [first, second]
        monkeypatch.setattr(check, "the_set", lambda chosen=chosen: chosen)
        assert check.write(path, method) == []
        assert done == wanted
        assert list(read(path)["cases"]) == [i.key for i in chosen]
        done.clear()


def test_networks_are_checked_too(
    cli: Cli, tmp_path: Path, speeds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LAYERS", check.LAYERS[:2])
    monkeypatch.setattr(check, "NETWORKS", ("wrn40_2_g4",))
    known = [cases.of_layer(Conv2d.parse(check.LAYERS[0])), cases.of_network("wrn40_2_g4")]
    medians = {"edgeconv": 1.0, "onnxruntime": 2.0}
    path = tmp_path / "base.json"
    path.write_text(json.dumps(content("check", {i.key: layer(TEXT, medians) for i in known})))
    speeds += [1.0, 1.0, 1.2, 1.2]
    done = cli("bench", "check", "--baseline", path)
    assert done.status == 1
    assert "1 case slower than the baseline by more than 15%" in done.err
    assert "the baseline is of another CPU: generic" in done.err
    assert "nothing to compare with for: " in done.err
    assert speeds == []
    path.write_text(json.dumps(content("check", {})))
    speeds += [1.0] * 3
    done = cli("bench", "check", "--baseline", path)
    assert done.status == 1
    assert "error: the baseline has nothing to compare with" in done.err
    path.write_text(json.dumps(content("layers", {})))
    done = cli("bench", "check", "--baseline", path)
    assert done.status == 1
    assert "of `layers`, no baseline" in done.err


def test_the_set_has_layers_of_every_kind() -> None:
    kinds = {Conv2d.parse(text).kind for text in check.LAYERS}
    assert {"dense", "grouped", "depthwise", "dilated depthwise", "pointwise"} <= kinds
    networks.check(check.NETWORKS)
    assert len({c.key for c in check.the_set()}) == len(check.LAYERS) + len(check.NETWORKS)


def test_noise_is_an_error_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = measured({"edgeconv": 1.0, "onnxruntime": 2.0}, loop_ms=[1.0] * 5 + [1.5] * 5)
    monkeypatch.setattr(worker, "measure", lambda *_, **__: {"network": noisy})
    case = items()[0]
    assert running.measure(case, Method(check.ENGINES))["noise"]["noisy"]
    with pytest.raises(EdgeconvError, match="not steady"):
        running.measure(case, Method(check.ENGINES, strict=True))
    assert "50%" in sentence(noisy["noise"])


def test_lists_of_numbers_take_one_line_in_files(tmp_path: Path, speeds: list[float]) -> None:
    found = Records(tmp_path / "r.json", "layers", {"engines": ["edgeconv"]})
    speeds += [1.0]
    running.run(found, items()[:1], Method(check.ENGINES))
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(found.content)) == read(tmp_path / "r.json")
    (line,) = [t for t in text.splitlines() if "samples_ms" in t and "0.98" in t]
    assert line.count(";") == 9
    assert any('"interval_ms": [' in t and "]" in t for t in text.splitlines())


def test_papers_show_claim_and_measurement() -> None:
    def case(name: str, own: float, parameters: int) -> dict[str, Any]:
        facts = {"network": name, "threads": 1, "flops": 2e6 * parameters, "parameters": parameters}
        return {**facts, **measured({"edgeconv": own, "onnxruntime": 4.0, "tflite": 1.5})}

    found = content(
        "paper scc",
        {
            "mobilenetv1, 1 thread": case("mobilenetv1", 2.0, 4_000_000),
            "x, 1 thread": case("scc_mobilenet_cg2_co50", 1.0, 1_000_000),
        },
    )
    titles, rows = (t := paper.tabulate(found)).titles, t.rows
    assert titles[-1] == "baseline / edgeconv time"
    assert rows[0][-3:] == ["–"] * 3
    assert rows[1][-3:] == ["0.25", "0.25", "2.00"]
    assert rows[1][4:7] == ["1", "4.00", "1.50"]
    text = paper.verdict(found)
    assert "2.83 times ONNX Runtime's" in text  # sqrt(4 · 2)
    assert "1.06 times TFLite XNNPACK's" in text
    assert "the fastest in 1 of 2" in text
    assert "Claimed: Each filter reads C/cg" in paper.summary(found)


def test_networks_of_a_paper_that_do_not_exist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found, missing = paper.choose(paper.TABLES["gspc"], [1, 2])
    assert not missing
    assert len(found) == 2 * 10
    monkeypatch.setattr(networks, "names", lambda: ["mobilenetv1", "scc_mobilenet_cg2_co50"])
    found, missing = paper.choose(paper.TABLES["scc"], [1])
    assert len(found) == 2
    assert "grouped_mobilenet_cg2" in missing
    with pytest.raises(EdgeconvError, match="none of the networks of 'ddc'"):
        paper.choose(paper.TABLES["ddc"], [1])


def test_cold_starts_of_engines_that_fail_are_left_out() -> None:
    own = {"compile_s": 2.5, "load_s": 0.01, "first_ms": 3.0, "steady_ms": 2.0, "file_mib": 4.0}
    case = {
        "network": "net",
        "threads": 1,
        "cold": {"edgeconv": {**own, "peak_mib": 8.0}, "mnn": {"failed": "no"}},
    }
    found = cold.table(content("cold", {"net, 1 thread": case}))
    assert found.rows == [["net, edgeconv", "1", "2.5", "0.01", "3", "2", "4.0", "8.0"]]


@pytest.mark.slow
def test_a_cold_start() -> None:
    method = running.Method(["edgeconv", "onnxruntime"], limit=120.0)
    case = cold.measure("wrn40_2_g4", 1, method, repeats=1)["cold"]
    assert case["edgeconv"]["compile_s"] > case["edgeconv"]["load_s"] > 0
    for engine in case.values():
        assert engine["first_ms"] > 0.3 * engine["steady_ms"] > 0
        assert 0 < engine["peak_mib"] < 200
        assert 0.5 < engine["file_mib"] < 20
        assert engine["error"] < 1e-5
