"""TVM tuned by MetaSchedule as an engine: what is kept, what is refused, and once for real."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from edgeconv.benchmarks import harness, random_layers
from edgeconv.benchmarks.peers import PEERS, tvm_tuned
from edgeconv.benchmarks.peers import tvm as untuned
from edgeconv.benchmarks.peers.base import Unsupported
from edgeconv.workload import Conv2d

for _module in tvm_tuned.PEER.modules:
    pytest.importorskip(_module)


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small layer's file; the cache is a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "layer.onnx"
    onnx.save(random_layers.alone(Conv2d.parse("8x6x6->8 k3 p1 g2")), path)
    return path


@pytest.fixture(autouse=True)
def _intrinsics_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine takes out of TVM's import is there again for other tests."""
    for name in tvm_tuned._NOT_FOR_CPUS:
        if name in sys.modules:
            monkeypatch.setitem(sys.modules, name, sys.modules[name])
        else:
            monkeypatch.delitem(sys.modules, name, raising=False)


def test_when_nothing_could_be_measured_the_reason_is_the_error(
    layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tvm_tuned, "_tune", lambda *_: ["the compiler is missing"])
    inputs = harness.random_inputs(onnx.load(layer))
    with pytest.raises(Unsupported, match="no candidate of 1 tasks: the compiler is missing"):
        tvm_tuned.prepare(layer, inputs, 1)


@pytest.mark.parametrize("text", ["", '[1]\n{"torn', "[]\n\n"])
def test_torn_records_are_not_read(tmp_path: Path, text: str) -> None:
    (tmp_path / tvm_tuned._WORKLOADS).write_text("[1]\n", encoding="utf-8")
    assert not tvm_tuned._usable(tmp_path)
    records = tmp_path / tvm_tuned._RECORDS
    records.write_text("[1]\n", encoding="utf-8")
    assert tvm_tuned._usable(tmp_path)
    records.write_text(text, encoding="utf-8")
    assert not tvm_tuned._usable(tmp_path)


def test_kept_by_kernel_target_and_trials() -> None:
    def task(text: str) -> Any:
        return SimpleNamespace(dispatched=[SimpleNamespace(script=lambda: text)])

    keys = [
        tvm_tuned._key(task(text), untuned.target(threads), trials)
        for text, threads, trials in (("a", 1, 8), ("b", 1, 8), ("a", 2, 8), ("a", 1, 9))
    ]
    assert len(set(keys)) == 4
    assert tvm_tuned._key(task("a"), untuned.target(1), 8) == keys[0]


@pytest.mark.slow
def test_a_layer_is_tuned_once(
    layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    lock = tmp_path / "lock"
    place = tvm_tuned.Place(1, lock=lock)
    monkeypatch.setitem(PEERS, "tvm_tuned", tvm_tuned.configured(2, place, starting=steps.append))
    inputs = harness.random_inputs(onnx.load(layer))
    ready, failed = harness.prepare(layer, inputs, ["tvm_tuned"], 1)
    assert not failed
    assert ready["tvm_tuned"].error < 1e-5
    assert steps == ["task 1 of 1"]
    assert lock.exists()
    (kept,) = tvm_tuned.cache_folder().iterdir()
    assert len((kept / tvm_tuned._RECORDS).read_text(encoding="utf-8").splitlines()) == 2
    monkeypatch.setattr(tvm_tuned, "_tune", lambda *_: pytest.fail("tuned again"))
    assert not harness.prepare(layer, inputs, ["tvm_tuned"], 1)[1]
