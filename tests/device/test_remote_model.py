"""A model on a board has the interface of a local one, and gives the same results bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import edgeconv
from edgeconv.device import RemoteModel, Session, session
from edgeconv.errors import DeviceError, InputError
from tests.cli.conftest import Cli, artifact, cli, folder, model
from tests.device import boards
from tests.e2e.models import ModelMaker

__all__ = ["artifact", "cli", "folder", "model"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server on this machine."""
    with boards.server() as process:
        yield f"rpc://127.0.0.1:{process.port}"


def several() -> onnx.ModelProto:
    """Two inputs of other types, two outputs, one of them a scalar; convolutions in between."""
    maker = ModelMaker()
    x = maker.input("x", 1, 5, 9, 11)
    n = maker.input("n", 3, dtype=TensorProto.INT64)
    y = maker.node("Relu", maker.conv(x, 5, 24))
    y = maker.node("Relu", maker.conv(y, 24, 24, groups=24))
    total = maker.node("ReduceSum", maker.node("Cast", n, to=TensorProto.FLOAT), keepdims=0)
    return maker.model(y, total)


def test_the_same_results(address: str, tmp_path: Path) -> None:
    local = edgeconv.compile(several(), threads=2)
    saved = local.save(tmp_path / "net.edgeconv")
    remote = edgeconv.load(saved, device=address)
    assert isinstance(remote, RemoteModel)
    with remote:
        assert (remote.inputs, remote.outputs) == (local.inputs, local.outputs)
        assert (remote.target, remote.threads) == (local.target, local.threads)
        for seed in (0, 1):
            feeds = local.random_inputs(seed)
            here, there = local.run(feeds), remote.run(feeds)
            assert here.keys() == there.keys()
            for name, value in here.items():
                assert (value.shape, value.dtype) == (there[name].shape, there[name].dtype)
                assert np.array_equal(value, there[name])
        call = remote.bind(feeds)
        call.inputs["x"][...] = 0.5
        results = local.run({**feeds, "x": np.full((1, 5, 9, 11), 0.5, np.float32)})
        for name, value in call().items():
            assert value is call.outputs[name]
            assert np.array_equal(value, results[name])
        with pytest.raises(InputError, match="missing: n"):
            remote.run({"x": feeds["x"]})
    with pytest.raises(DeviceError, match="is closed"):
        remote.run(feeds)


def test_positional_and_saved(address: str, artifact: Path, tmp_path: Path) -> None:
    local = edgeconv.load(artifact)
    with RemoteModel(local.artifact, session(address)) as remote:
        x = local.random_inputs()["x"]
        assert np.array_equal(remote(x), local(x))  # type: ignore[arg-type]
        saved = remote.save(tmp_path / "again.edgeconv")
    assert np.array_equal(edgeconv.load(saved)(x), local(x))  # type: ignore[arg-type]


def test_benchmark_and_profile(address: str, artifact: Path) -> None:
    """By the board's clock, here the same machine: of the order of what is measured locally."""
    local = edgeconv.load(artifact)
    with RemoteModel(local.artifact, session(address)) as remote:
        there = remote.benchmark(warmup=3, repeat=20, min_repeat_ms=1.0)
        assert len(there.samples) == 20
        assert 0.1 < min(there.samples) / min(local.benchmark(repeat=20).samples) < 10
        profile = remote.profile(repeat=5)
        assert [row.name for row in profile.rows] == [x.name for x in local.manifest.layers]
        assert sum(row.share for row in profile.rows) == pytest.approx(1)
        assert profile.peak_gflops > 0.1
        for wrong in ({"repeat": 0}, {"warmup": -1}, {"min_repeat_ms": -1.0}):
            with pytest.raises(ValueError, match="repeat must be"):
                remote.benchmark(**wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="repeat must be"):
            remote.profile(repeat=0)
        again = remote.profile(repeat=5)  # the probe of the peak is uploaded once more
        assert [row.name for row in again.rows] == [row.name for row in profile.rows]


def test_long_measurements_are_divided(
    address: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single request takes longer than some seconds, however many samples are wanted."""
    asked: list[tuple[int, int]] = []
    real = Session.time

    def slow(self: Session, *arguments: object, number: int, repeat: int, **rest: object) -> object:
        asked.append((number, repeat))
        real(self, *arguments, number=1, repeat=1, **rest)  # type: ignore[arg-type]
        return (2.0,) * repeat

    monkeypatch.setattr(Session, "time", slow)
    with RemoteModel(edgeconv.load(artifact).artifact, session(address)) as remote:
        latency = remote.benchmark(warmup=5, repeat=7, min_repeat_ms=2.0)
    assert len(latency.samples) == 7
    assert latency.median == 2000.0
    assert max(number * repeat for number, repeat in asked) == 2


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "uint8", "int64", "bool", "float64"]
)
def test_tensors(dtype: str, address: str) -> None:
    rng = np.random.default_rng(0)
    with session(address) as board:
        for shape in ((), (1,), (3, 5), (2, 3, 4, 5), (1 << 21,)):
            array = (rng.standard_normal(shape) * 10).astype(dtype)
            tensor = board.tensor(array)
            board.check(tensor, array)
            assert np.array_equal(board.read(tensor), array)
        big = board.tensor(np.ones(1000, np.float32))
        board.zero(big)
        assert not board.read(big).any()


def test_info(address: str) -> None:
    with session(address) as board:
        assert board.info.mismatch(edgeconv.targets.host()) is None
        assert board.info.versions["edgeconv"] == edgeconv.__version__
        assert board.info.address == address
        board.close()
        board.close()


def test_run_and_profile_commands(address: str, artifact: Path, model: Path, cli: Cli) -> None:
    for source, more in ((artifact, ()), (model, ("--threads", 1)), (model, ("-t", "host"))):
        done = cli("run", source, "--device", address, "--repeat", 3, "--json", *more)
        assert done.status == 0, done.err
        assert done.json["device"] == address
        assert done.json["latency"]["median_ms"] > 0
        here = cli("run", source, "--repeat", 0, "--json", *more)
        assert done.json["outputs"][0]["mean"] == pytest.approx(here.json["outputs"][0]["mean"])
    done = cli("profile", artifact, "--device", address, "--repeat", 3)
    assert done.status == 0, done.err
    assert done.out.startswith(f"net on {address}: host")


def test_run_refuses_what_does_not_fit(address: str, model: Path, cli: Cli) -> None:
    if edgeconv.targets.host().arch != "x86_64":
        pytest.skip("written for x86-64")
    done = cli("run", model, "--device", address, "--target", "raspberry-pi-4")
    assert done.status == 1
    assert "it is for aarch64, and the board's processes are x86_64" in done.err
    done = cli("run", model, "--device", "nobody")
    assert done.status == 1
    assert "unknown device 'nobody'" in done.err
    done = cli("run", model, "--device", address, "--timeout", 0)
    assert done.status == 2
