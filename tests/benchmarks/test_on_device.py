"""Cases on a board over RPC: a server on this machine stands for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from edgeconv.benchmarks import harness, networks, on_device, page, records, report, tabulate
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.peers import PEERS, Bound
from edgeconv.device import session
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.targets import host
from tests.benchmarks.results import SESSION
from tests.cli.conftest import Cli, cli
from tests.device import boards

__all__ = ["cli"]

LAYER = "4x6x6->8 k3 p1"
KEY = "4x6x6->8 k3x3 s1x1 p1,1,1,1 d1x1 g1, 1 thread"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server on this machine."""
    with boards.server() as process:
        yield f"rpc://127.0.0.1:{process.port}"


@pytest.fixture(autouse=True)
def _no_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance measures this machine's peak, which these tests do not need."""
    monkeypatch.setattr(records, "provenance", lambda: dict(SESSION))


def test_layers_and_networks(address: str, cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "r.json"
    arguments = ["--device", address, "--rounds", "6", "--json", kept]
    done = cli("bench", "layers", LAYER, *arguments)
    assert done.status == 0, done.err
    content = json.loads(kept.read_text(encoding="utf-8"))
    assert content["settings"]["device"] == address
    (case,) = content["cases"].values()
    assert case["engines"].keys() == {"edgeconv"}
    engine = case["engines"]["edgeconv"]
    assert (engine["rounds"], engine["samples_ms"].count(";")) == (6, 5)
    assert 0 < engine["median_ms"] < 50
    assert engine["error"] < 1e-5
    assert len(case["noise"]["loop_ms"].split()) == 6
    board = case["board"]
    assert board["address"] == address
    assert board["peak_gflops_one_core"] > 0.1
    assert tabulate.peak_of(content, case) == board["peak_gflops_one_core"]
    again = cli("bench", "layers", LAYER, *arguments)
    assert again.status == 0, again.err
    assert json.loads(kept.read_text(encoding="utf-8")) == content
    here = cli("bench", "layers", LAYER, "--rounds", "6", "--json", kept)
    assert here.status == 1
    assert "name another file, or give the same arguments" in here.err
    (line,) = tabulate.boards(content)
    assert line.endswith(f"compiled for {board['target']}")
    assert f"- Board: {line}." in report.markdown({"r.json": content})
    made = page.write_page({"r.json": content})
    assert f"<p>{line}" in made
    assert "A &lt;CPU&gt;" not in made.partition("<main>")[0]


def test_an_onnx_file_and_its_layers(address: str, cli: Cli, tmp_path: Path) -> None:
    b = Builder("small", (1, 8, 6, 6))
    x = b.conv("input", 8, 8, (3, 3), groups=8)
    onnx.save(b.model(b.max_pool(b.conv(x, 8, 16, (5, 5)), 2, 2, 0)), tmp_path / "small.onnx")
    kept = tmp_path / "r.json"
    arguments = ["--device", address, "--rounds", "5", "--seconds", "0.2", "--json", kept]
    done = cli("bench", tmp_path / "small.onnx", *arguments)
    assert done.status == 0, done.err
    assert "edgeconv by layer, small, 1 thread" in done.out
    case = json.loads(kept.read_text(encoding="utf-8"))["cases"]["small, 1 thread"]
    assert {"depthwise", "dense", "max_pool2d"} <= {row["op"] for row in case["layers"]}
    assert all(row["ms"] >= 0 for row in case["layers"])


def test_a_papers_table(
    address: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(name: str) -> onnx.ModelProto:
        b = Builder(name, (1, 16, 8, 8))
        return b.model(b.conv("input", 16, 16, (3, 3), groups=4 if name == "ddc_face" else 1))

    monkeypatch.setattr(networks, "load", small)
    kept = tmp_path / "r.json"
    arguments = ["--device", address, "--rounds", "5", "--json", kept]
    done = cli("bench", "paper", "ddc", *arguments)
    assert done.status == 0, done.err
    assert "measured  Beside the networks they replace, in edgeconv and the mean: 0.2" in done.out
    assert "of the multiply-adds" in done.out
    cases = json.loads(kept.read_text(encoding="utf-8"))["cases"]
    assert [c["engines"].keys() for c in cases.values()] == [{"edgeconv"}] * 2
    assert all(c["board"]["address"] == address for c in cases.values())


def test_a_cold_start(address: str, cli: Cli, tmp_path: Path) -> None:
    b = Builder("small", (1, 8, 6, 6))
    onnx.save(b.model(b.conv(b.conv("input", 8, 32, (3, 3)), 32, 8, (5, 5))), tmp_path / "n.onnx")
    kept = tmp_path / "r.json"
    done = cli("bench", "cold", tmp_path / "n.onnx", "--device", address, "--json", kept)
    assert done.status == 0, done.err
    content = json.loads(kept.read_text(encoding="utf-8"))
    assert content["settings"]["device"] == address
    (case,) = content["cases"].values()
    assert case["board"]["address"] == address
    (engine,) = case["cold"].values()
    assert engine["load_s"] > 0
    assert 0 < engine["steady_ms"] < engine["first_ms"] * 5 < 500
    assert 0 <= engine["error"] < 1e-5
    assert "peak_mib" not in engine
    assert report.markdown({"r.json": content})


def test_the_check_is_not_for_boards_over_rpc(cli: Cli) -> None:
    done = cli("bench", "check", "--device", "rpc://127.0.0.1:1")
    assert done.status == 2
    assert "relative to ONNX Runtime" in done.err


def test_options_that_make_no_sense(address: str, cli: Cli) -> None:
    done = cli("bench", "layers", LAYER, "--device", address, "--engines", "tflite")
    assert done.status == 2
    assert "only edgeconv is measured" in done.err
    other = "raspberry-pi-4" if host().arch == "x86_64" else "x86-avx2"
    done = cli("bench", "layers", LAYER, "--device", address, "--target", other)
    assert done.status == 1
    assert f"can't run code for '{other}'" in done.err
    done = cli("bench", "layers", LAYER, "--device", address, "--threads", "1,4096")
    assert done.status == 1
    assert "4096 threads" in done.err


def test_emulated_boards_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with session(address, 30) as real:
        info = replace(real.info, emulated=True)
    fake = contextlib.nullcontext(SimpleNamespace(info=info))
    monkeypatch.setattr(on_device, "session", lambda address, timeout: fake)
    with pytest.raises(DeviceError, match="emulated: times there say nothing"):
        on_device.look(address, "host", [1], 30)


def test_wrong_results_get_no_time(
    address: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = PEERS["onnxruntime"]

    def prepare(path: Path, inputs: Any, threads: int) -> Bound:
        bound = right.prepare(path, inputs, threads)
        return replace(bound, outputs=lambda: [a + 1 for a in bound.outputs()])

    monkeypatch.setitem(harness.PEERS, "onnxruntime", replace(right, prepare=prepare))
    kept = tmp_path / "r.json"
    done = cli("bench", "layers", LAYER, "--device", address, "--json", kept)
    assert done.status == 0, done.err
    assert "edgeconv has no time" in done.err
    case = json.loads(kept.read_text(encoding="utf-8"))["cases"][KEY]
    assert case["engines"]["edgeconv"]["failed"].startswith("wrong result: relative error")


def test_a_board_that_is_not_there() -> None:
    with pytest.raises(EdgeconvError):
        on_device.look("rpc://127.0.0.1:1", "host", [1], 2)
