"""What the programme about fused pairs draws, and that its kernels compute the same."""

from __future__ import annotations

import numpy as np

from edgeconv.benchmarks import fused_pairs
from edgeconv.benchmarks.tabulate import NOTHING
from edgeconv.targets import host


def test_the_sweep() -> None:
    cases = list(fused_pairs.sweep(fused_pairs.KINDS, (32, 128), (7, 14)))
    assert len(set(cases)) == len(cases) == 2 * 2 * 3 * 4  # kinds, maps, widths, windows
    for kind, one, other in cases:
        assert one.output_shape[1] == other.in_channels
        assert one.is_pointwise is (kind == "pointwise_depthwise")


def test_fused_and_apart_agree() -> None:
    device = host()
    for kind in fused_pairs.KINDS:
        task = fused_pairs.task_of(*fused_pairs.pair(kind, 20, 40, 9, 3, 2), device)
        bench = fused_pairs.Kernels(task, device)
        results = []
        for call in bench.calls().values():
            call()
            results.append(bench.output)
        scale = np.abs(results[0]).max()
        assert scale > 0
        assert np.abs(results[0] - results[1]).max() <= 1e-5 * scale


def test_summary_keeps_choices_apart() -> None:
    pair = "10x50x50->20 k1x1 then 20x50x50->20 k3x3 p1,1,1,1 g20"  # 0.95 million multiply-adds

    def case(fused: float, chosen: bool) -> dict[str, object]:
        kernels = {"fused_ms": fused, "apart_ms": 1.0, "chosen": chosen}
        return {"kind": "pointwise_depthwise", "pair": pair, "kernels": kernels}

    cases = {"a": case(0.5, True), "b": case(0.8, True), "c": case(2.0, False)}
    sessions = [{"peak_gflops_one_core": 3.8}]  # half a millisecond for these
    text = fused_pairs.summary({"cases": cases, "sessions": sessions})
    assert "| fuses | 2 | 1.581 | 1.250 | 2.000 | 2.000 |" in text
    assert "| leaves apart | 1 | 0.500 | 0.500 | 0.500 | 2.000 |" in text


def test_summary_of_engines() -> None:
    """Alone and in a chain apart; the bound of a chain is that of four pairs."""
    pair = "10x50x50->10 k1x1 then 10x50x50->10 k3x3 p1,1,1,1 g10"  # 0.475 million multiply-adds

    def times(own: float, other: float) -> dict[str, object]:
        return {
            name: {"median_ms": ms, "interval_ms": [ms, ms], "ratio_fastest": [r, r, r]}
            for name, ms, r in (("edgeconv", own, 1.0), ("tflite", other, other / own))
        }

    kernels = {"fused_ms": 1.0, "apart_ms": 1.0, "chosen": True, "predicted": 1.0, "knobs": ""}
    case = {"kind": "pointwise_depthwise", "pair": pair, "kernels": kernels}
    both = {**case, "engines": times(1.0, 1.2), "chain": times(2.0, 3.0)}
    alone = {**case, "engines": times(1.0, 1.2)}
    sessions = [{"peak_gflops_one_core": 3.8}]  # a quarter of a millisecond
    content = {"cases": {"a": both, "b": alone}, "sessions": sessions}
    text = fused_pairs.summary(content)
    assert f"| alone, NCHW in and out | 2 | 1.20 | 1.20 | {pair} (TFLite XNNPACK) | 4.80 |" in text
    assert f"| 4 in a row | 1 | 1.50 | 1.50 | {pair} (TFLite XNNPACK) | 3.00 |" in text
    rows = fused_pairs.every(content).rows
    assert [row[-2:] for row in rows] == [["1.20", "1.50"], ["1.20", NOTHING]]


def test_chains_of_what_fits() -> None:
    one, other = fused_pairs.pair("depthwise_pointwise", 8, 8, 7, 3, 1)
    model = fused_pairs.network(one, other, 4)
    assert [n.op_type for n in model.graph.node].count("Conv") == 8
