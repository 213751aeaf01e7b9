"""edgeconv with records as an engine: what it tunes, what it takes from records that exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeconv.benchmarks import summary
from edgeconv.benchmarks.harness import MAX_ERROR, random_inputs, relative_error
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.page import write_page
from edgeconv.benchmarks.peers import PEERS, edgeconv_tuned
from edgeconv.importer import import_model, read_model
from edgeconv.targets import host
from edgeconv.tuning import plan, records
from tests.benchmarks.results import content, layer
from tests.tuning.pretend import Pretend

THREADS = 1


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Two convolutions."""
    b = Builder("small", (1, 8, 6, 6))
    model = b.model(b.conv(b.relu(b.conv("input", 8, 16, (3, 3))), 16, 8, (1, 1)))
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place with records."""
    found = tmp_path / "records"
    monkeypatch.setattr(records, "default_folders", lambda own=None: [found])
    return found


def run(path: Path) -> list[np.ndarray]:
    """The engine's results, after they were compared with the reference's."""
    inputs = random_inputs(onnx.load(path))
    outputs = []
    for peer in (PEERS["onnxruntime"], edgeconv_tuned.PEER):
        bound = peer.prepare(path, inputs, THREADS)
        bound.call()
        outputs.append(bound.outputs())
    assert relative_error(outputs[1], outputs[0]) <= MAX_ERROR
    return outputs[1]


def test_what_has_no_record_is_tuned(
    network: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[dict[str, Any]] = []
    compile_: Callable[..., Any] = edgeconv_tuned.edgeconv.compile

    def watched(*args: Any, **options: Any) -> Any:
        compiled.append(options)
        return compile_(*args, **options)

    runner = Pretend()
    monkeypatch.setattr(edgeconv_tuned.edgeconv, "compile", watched)
    monkeypatch.setattr(edgeconv_tuned, "ProcessRunner", lambda threads, lock: runner)
    run(network)
    assert runner.finals > 0
    assert not folder.exists()
    device = plan.with_threads(host(), THREADS)
    items = plan.items(import_model(read_model(network)), device, THREADS)
    (options,) = compiled
    found = [options["records"].record(i.task, device, False) for i in items]
    kept = [f for f in found if f is not None]
    assert len(kept) == len(items) == 2
    assert any(f.median_us < f.default_us for f in kept)
    for record in kept:
        records.append(folder, record)
    monkeypatch.setattr(edgeconv_tuned, "ProcessRunner", None)  # not needed any more
    run(network)


def test_a_file_is_held_locked(
    network: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def runner(threads: int, lock: Path | None) -> Pretend:
        asked.append(lock)
        return Pretend()

    monkeypatch.setattr(edgeconv_tuned, "ProcessRunner", runner)
    lock = network.with_name("lock")
    peer = edgeconv_tuned.configured("host", lock)
    peer.prepare(network, random_inputs(onnx.load(network)), THREADS).call()
    assert asked == [lock]


def test_it_is_no_other_engine() -> None:
    text = "8x4x4->8 k1x1 s1x1 p0,0,0,0 d1x1 g1"
    medians = {"edgeconv": 2.0, "edgeconv_tuned": 1.0, "onnxruntime": 3.0}
    case = layer(text, medians)
    assert summary.fastest_other(case["engines"]) == "onnxruntime"
    found = summary.compare("x", case["engines"])
    assert found is not None
    assert (found.peer, found.ratio) == ("onnxruntime", 1.5)
    alone = layer(text, {"edgeconv": 2.0, "edgeconv_tuned": 1.0})
    assert summary.compare("x", alone["engines"]) is None
    made = write_page({"r.json": content("layers", {"a": case})})
    assert '<div class="card"><b>1</b><span>other engines: ONNX Runtime</span></div>' in made
    assert "<td>edgeconv, tuned</td>" in made
