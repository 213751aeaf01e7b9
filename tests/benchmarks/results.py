"""Results with known numbers, as the worker and the result files have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeconv.benchmarks.harness import Measured, timing_by_round
from edgeconv.benchmarks.rounds import Samples

SESSION: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "edgeconv bench groups",
    "commit": "abc1234",
    "cpu": "A <CPU>",
    "llvm_cpu": "generic",
    "cores": 2,
    "peak_gflops_one_core": 100.0,
    "memory_gb_s_one_core": 10.0,
    "flags": "avx2 fma",
    "python": "3.11.7",
    "versions": {"numpy": "2.0"},
}
SPREAD = (0.98, 1.0, 1.02)  # of the calls of a round


def measured(
    medians: Mapping[str, float],
    failed: Mapping[str, str] | None = None,
    loop_ms: Sequence[float] = (0.03,) * 10,
    layers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What the worker gives of engines with these medians in ms."""
    timings = {
        name: timing_by_round(
            Samples([[ms * s for s in SPREAD]] * len(loop_ms), [[]] * len(loop_ms)), 1e-6, 0.5
        )
        for name, ms in medians.items()
    }
    return Measured(timings, dict(failed or {}), list(loop_ms), [dict(r) for r in layers]).to_json()


def content(programme: str, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A result file of one session."""
    return {
        "programme": programme,
        "settings": {"engines": ["edgeconv", "onnxruntime"]},
        "sessions": [SESSION],
        "cases": {key: {"session": 0, **case} for key, case in cases.items()},
    }


def layer(text: str, medians: Mapping[str, float], **facts: Any) -> dict[str, Any]:
    """A case of a single layer on one thread."""
    known = {"layer": text, "mode": "alone", "threads": 1, "flops": 2_000_000, "bytes": 100_000}
    return {**known, **facts, **measured(medians)}


def group_sweep() -> dict[str, Any]:
    """Two widths by three group counts; edgeconv loses one of them."""
    cases = {}
    for channels, size in ((16, 8), (32, 4)):
        for groups, other in ((1, 2.0), (4, 0.5), (channels, 4.0)):
            text = f"{channels}x{size}x{size}->{channels} k3x3 s1x1 p1,1,1,1 d1x1 g{groups}"
            facts = {"channels": channels, "size": size, "groups": groups}
            medians = {"edgeconv": 1.0, "onnxruntime": other, "tflite": 5.0}
            cases[f"{text}, 1 thread"] = layer(text, medians, **facts)
    return content("groups", cases)


def networks() -> dict[str, Any]:
    """One network with its layers, and an engine that failed."""
    rows = [
        {
            "name": f"conv{i}",
            "op": op,
            "workload": "8x4x4->8 k1x1",
            "schedule": "s",
            "knobs": "",
            "ms": 0.5 * i,
            "share": 0.1 * i,
            "gflops": 10.0 if i < 3 else 0.0,
            "peak": 0.1,
            "bytes": 1024,
        }
        for i, op in enumerate(("dense", "dilated depthwise", "max_pool2d"), 1)
    ]
    found = measured(
        {"edgeconv": 2.0, "onnxruntime": 3.0}, {"mnn": "ended with <status> 1\nmore"}, layers=rows
    )
    case = {"network": "net", "threads": 1, "flops": 4e8, "bytes": 2e6, "parameters": 10**6}
    return content("nets", {"net, 1 thread": {**case, **found}})
