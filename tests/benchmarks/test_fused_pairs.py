"""What the programme about fused pairs draws, and that its kernels compute the same."""

from __future__ import annotations

import numpy as np

from edgeconv.benchmarks import fused_pairs
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
