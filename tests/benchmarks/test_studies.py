"""What reports show of programmes that answer single questions: tables, in Markdown and HTML."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from edgeconv.benchmarks import page, report
from edgeconv.benchmarks.studies import STUDIES
from edgeconv.benchmarks.tuning_study import POINTS
from tests.benchmarks.results import content, measured


def engines(own: float | None, other: float) -> dict[str, Any]:
    """edgeconv, or its failure, beside another engine."""
    failed = {} if own is not None else {"edgeconv": "no"}
    medians = {"tflite": other} if own is None else {"edgeconv": own, "tflite": other}
    found: dict[str, Any] = measured(medians, failed)["engines"]
    return found


def pair_of(rows: int) -> str:
    """A pair of 0.02945 ms a row at the peak of 100 GFLOP/s."""
    one = f"400x{rows}x9->400"
    return f"{one} k1x1 then {one} k3x3 p1,1,1,1 g400"


def fused_pairs() -> dict[str, Any]:
    def case(kind: str, apart: float, chosen: bool, **more: Any) -> dict[str, Any]:
        kernels = {"apart_ms": apart, "fused_ms": 2.0, "chosen": chosen, "predicted": 1.25}
        pair = pair_of(round(100 * apart))
        return {"kind": kind, "pair": pair, "kernels": {**kernels, "knobs": "k=1"}, **more}

    forth, back = "pointwise_depthwise", "depthwise_pointwise"
    cases = {
        "a": case(forth, 8.0, True, engines=engines(1.0, 3.0), chain=engines(1.0, 2.0)),
        "b": case(forth, 2.0, True, engines=engines(2.0, 1.0)),
        "c": case(back, 1.0, False),
    }
    return content("fused_pairs", cases)


def ddc_layers() -> dict[str, Any]:
    memory = {"fused": {"workspace_bytes": 2048}, "unfused": {"workspace_bytes": 6144}}
    both = {"alone": engines(1.0, 4.0), "between": engines(1.0, 0.5)}
    cases = {
        "8x4x4 d123 sum": {"memory": memory, "measurements": both},
        "8x4x4 k357 sum": {"memory": memory, "measurements": {"alone": engines(1.0, 1.0)}},
    }
    return content("ddc_layers", cases)


def channel_windows() -> dict[str, Any]:
    def case(kind: str, own: float, dense: float | None) -> dict[str, Any]:
        models = {"structured": engines(own, 3.0), "dense": engines(dense, 9.0)}
        return {"kind": kind, "ideal": 2.0, "measurements": models}

    cases = {
        "sliding a": case("sliding", 1.0, 1.5),
        "sliding b": case("sliding", 4.0, 12.0),
        "ragged c": case("ragged", 2.0, None),
    }
    return content("channel_windows", cases)


def default_study() -> dict[str, Any]:
    tried = {"best": "knobs", "candidates": 40, "tried": 20}
    families = {
        "lane_groups": {"default_ms": 1.2, "best_ms": 1.0, **tried},
        "grouped_spatial_pack": {"default_ms": 2.0, "best_ms": 0.8, **tried},
    }
    return content("default_study", {"layer a": {"chosen": "lane_groups", "families": families}})


def depthwise_bounds() -> dict[str, Any]:
    def case(ms: float, copy: float, adds: float) -> dict[str, Any]:
        return {"chosen": "k", "ms": ms, "copy_ms": copy, "multiply_add_ms": adds, "bytes": 2048}

    cases = {"a": case(1.0, 0.8, 0.1), "b": case(2.0, 1.0, 0.1), "c": case(1.0, 0.1, 0.9)}
    return content("depthwise_bounds", cases)


def tuning_study() -> dict[str, Any]:
    def case(kind: str, best: float) -> dict[str, Any]:
        found = {"xgboost": [1.0, *[best] * (len(POINTS) - 1)], "random": [1.0] * len(POINTS)}
        facts = {"class": kind, "layer": "8x4x4->8", "best_ratio": best, "faults": ["one failed"]}
        facts |= {"candidates": 50, "tried": 49, "default": "d", "best": "b"}
        return {**facts, "curves": {name: [curve] * 2 for name, curve in found.items()}}

    cases = {"x": case("dense", 0.5), "y": case("dense", 0.8), "z": case("depthwise", 1.0)}
    return content("tuning_study", cases)


MADE = {
    "fused_pairs": fused_pairs,
    "ddc_layers": ddc_layers,
    "channel_windows": channel_windows,
    "default_study": default_study,
    "depthwise_bounds": depthwise_bounds,
    "tuning_study": tuning_study,
}
ROWS = {  # of the short tables
    "fused_pairs": [
        "| pointwise_depthwise | fuses | 2 | 2.000 | 1.000 | 4.000 | 0.340 |",
        "| depthwise_pointwise | leaves apart | 1 | 0.500 | 0.500 | 0.500 | 0.340 |",
        f"| pointwise_depthwise | alone, NCHW in and out | 2 | 1.22 | 0.50 | {pair_of(200)} "
        "(TFLite XNNPACK) | 0.15 |",
        f"| pointwise_depthwise | 4 in a row | 1 | 2.00 | 2.00 | {pair_of(800)} "
        "(TFLite XNNPACK) | 0.02 |",
    ],
    "ddc_layers": ["| sum, alone | 2 | 2.00 | 1.00 |", "| sum, between | 1 | 0.50 | 0.50 |"],
    "channel_windows": [
        "| sliding | 2 | 1.50 | 0.75 | 1.06 | 0.75 |",  # sqrt(0.75 · 1.5) of the ideal gain
        "| ragged | 1 | 1.50 | 1.50 | – | – |",
    ],
    "default_study": [
        "| lane_groups | 1 | 1.200 | 1.200 | 1.200 |",
        "| the strategy's choice, against the best of all families | 1 | 1.500 | 1.500 | 1.500 |",
    ],
    "depthwise_bounds": [
        "| a copy | 2 | 0.65 | 0.53 | 0.50 | 1 |",
        "| multiply-adds | 1 | 0.90 | 0.90 | 0.90 | 0 |",
    ],
    "tuning_study": [
        "| dense | 2 | 2 | 1.581 | 2.000 |",
        "| depthwise | 1 | 0 | 1.000 | 1.000 |",
        "| all | 3 | 2 | 1.357 | 2.000 |",  # (2 · 1.25) ** (1/3)
        "| xgboost | 0% |" + " 100% |" * (len(POINTS) - 1),
        "| random |" + " 0% |" * len(POINTS),
        f"| xgboost | {POINTS[1]} | {POINTS[1]} | {POINTS[1]} |",
        "| random |" + f" more than {POINTS[-1]} |" * 3,
    ],
}
LONG = {  # a row of each table of all cases
    "fused_pairs": "| a | fuses | 1.250 | 4.000 | 8 | 2 | k=1 | 3.00 | 2.00 |",
    "ddc_layers": "| 8x4x4 d123 sum, between | 1 | 0.5 | TFLite XNNPACK | 0.50 | 2 | 6 |",
    "channel_windows": "| sliding a | 1 | 3 | TFLite XNNPACK | 3.00 | 1.50 | 2.00 | 0.75 |",
    "default_study": "| layer a, lane_groups | yes | 1.200 | 1.2 | 1 | knobs | 40 | 20 |",
    "depthwise_bounds": "| b | 2 | 1 | 0.1 | 0.50 | 2 | k |",
    "tuning_study": "| x | 2.000 | d | b | 50 | 49 | 1 |",
}
CASES = {  # dots in the chart
    "fused_pairs": 3,
    "ddc_layers": 3,
    "channel_windows": 3,
    "default_study": 0,
    "depthwise_bounds": 3,
    "tuning_study": 3,
}


def test_all_are_tried() -> None:
    assert STUDIES.keys() == MADE.keys() == ROWS.keys() == LONG.keys() == CASES.keys()


@pytest.mark.parametrize("name", STUDIES)
def test_tables_in_markdown(name: str) -> None:
    text = report.markdown({"r.json": MADE[name]()})
    assert f"## {STUDIES[name].title}" in text
    short, _, long = text.partition("<details>")
    lines = short.splitlines()
    positions = [lines.index(row) for row in ROWS[name]]
    assert positions == sorted(positions)
    assert LONG[name] in long.splitlines()
    assert "All numbers: `r.json`" in long


@pytest.mark.parametrize("name", STUDIES)
def test_tables_and_charts_on_the_page(name: str) -> None:
    made = page.write_page({"r.json": MADE[name]()})
    (section,) = re.findall(rf'<section id="{name.replace("_", "-")}">.*?</section>', made)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", r) for r in re.findall(r"<tr><td.*?</tr>", section)]
    for wanted in [*ROWS[name], LONG[name]]:
        cells = [html.escape(c.strip()) for c in wanted.strip("| ").split(" | ")]
        assert cells in rows
    drawn = re.findall(r'<div class="wide">(.*?)</svg>', section)
    assert sum(text.count("<circle") for text in drawn) == CASES[name]


def test_two_files_of_one_programme_have_a_section_each() -> None:
    made = page.write_page({"one.json": tuning_study(), "two.json": tuning_study()})
    assert re.findall(r'<section id="(tuning[\w-]*)"', made) == ["tuning-study", "tuning-study-2"]
    figures = re.findall(r'<figure id="([\w-]+)"', made)
    assert len(figures) == len(set(figures)) == 2


def test_what_failed_is_told() -> None:
    text = report.markdown({"r.json": channel_windows()})
    assert "- edgeconv, 1 of the measurements: no" in text
