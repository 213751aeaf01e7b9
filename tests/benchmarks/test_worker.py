"""Cases in processes of their own: an engine that crashes, hangs or errs does not stop the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from edgeconv.benchmarks import worker
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.errors import EdgeconvError

# A process whose engines misbehave in ways that the real ones have shown.
PROCESS = """
import dataclasses, os, sys, time
from edgeconv.benchmarks import peers, worker
from edgeconv.benchmarks.peers.base import Bound

def crash(path, inputs, threads):
    print("about to crash", flush=True)
    os.abort()

def hang(path, inputs, threads):
    time.sleep(1000)

def err(path, inputs, threads):
    raise ValueError("cannot load this")

def lie(path, inputs, threads):
    good = peers.PEERS["onnxruntime"].prepare(path, inputs, threads)
    return Bound(good.call, lambda: [a * 1.01 for a in good.outputs()])

def crash_later(path, inputs, threads):
    good = peers.PEERS["onnxruntime"].prepare(path, inputs, threads)
    calls = []
    def call():
        calls.append(0)
        if len(calls) > 3:
            os.abort()
        good.call()
    return Bound(call, good.outputs)

faults = dict(mnn=crash, ncnn=hang, openvino=err, tflite=lie, torch=crash_later)
for name, prepare in faults.items():
    peers.PEERS[name] = dataclasses.replace(peers.PEERS[name], prepare=prepare)
worker.main()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small network's file."""
    b = Builder("small", (1, 4, 8, 8))
    onnx.save(b.model(b.relu(b.conv("input", 4, 8, (3, 3)))), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


@pytest.mark.slow
def test_engines_that_misbehave(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS, encoding="utf-8")
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, str(script)))
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p) or ".")
    engines = ["mnn", "onnxruntime", "ncnn", "openvino", "tflite", "torch"]
    lock = tmp_path / "lock"
    (found,) = worker.run(
        {"net": model}, engines, threads=1, seconds=0.2, limit=20, lock=lock
    ).values()
    assert found.keys() == set(engines)
    good = found["onnxruntime"]
    assert 0 < good["p10_ms"] <= good["median_ms"] <= good["p90_ms"]
    assert good["error"] == 0
    reasons = {name: engine["failed"] for name, engine in found.items() if "failed" in engine}
    assert reasons.keys() == set(engines) - {"onnxruntime"}
    assert reasons["mnn"].startswith("ended with status -6")
    assert "about to crash" in reasons["mnn"]
    assert reasons["ncnn"].startswith("took longer than 20 s")
    assert reasons["openvino"] == "ValueError: cannot load this"
    assert reasons["tflite"].startswith("wrong result: relative error 1.0e-02")
    assert reasons["torch"].startswith("ended with status -6")


def test_a_fault_outside_the_engines_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(EdgeconvError, match="measuring"):
        worker.run({"net": broken}, ["onnxruntime"], threads=1, seconds=0.2, limit=60)
