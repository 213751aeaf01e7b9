"""A board without a board: AArch64 Python and TVM under QEMU, behind TVM's own tracker.

The NEON code of every convolution family, and of whole networks, against ONNX Runtime on this
machine. `python -m tests.e2e.device.userland` makes the emulated system; without it these tests
skip. Nothing is timed: an emulator's times say nothing.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeconv
from edgeconv import targets
from edgeconv.artifact import Artifact
from edgeconv.benchmarks import models
from edgeconv.benchmarks.networks import light_network
from edgeconv.device import RemoteModel, session
from edgeconv.device.detect import detect, to_toml
from edgeconv.device.trial import TOLERANCE, small_convolution
from edgeconv.errors import DeviceError
from edgeconv.linking import find_linker
from edgeconv.schedules import FAMILIES
from tests.cli.conftest import Cli, cli
from tests.device import boards
from tests.e2e.device import userland
from tests.e2e.models import ModelMaker, assert_close, expected, he_normal
from tests.e2e.sliding import sliding

__all__ = ["cli"]

TARGET = "raspberry-pi-4"
CLOSE = 1e-4  # of the output's max-norm
TIMEOUT = 120.0  # seconds an emulated network may take on a busy machine

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The emulated board, by its tracker."""
    program = userland.python()
    if program is None:
        pytest.skip("no emulated board: python -m tests.e2e.device.userland (CONTRIBUTING.md)")
    pytest.importorskip("tornado")
    if find_linker(targets.load(TARGET)) is None:
        pytest.skip("no linker for AArch64 (CONTRIBUTING.md)")
    with boards.tracker() as tracker:
        arguments = ("--tracker", f"127.0.0.1:{tracker.port}", "--key", "rpi4")
        command = (str(program), "-m", "edgeconv.device")
        with boards.server(*arguments, program=command) as process:
            boards.registered(tracker.port, "rpi4")
            yield f"rpc://127.0.0.1:{tracker.port}/rpi4"
        assert not boards.processes(str(process.port))


def convolution(
    channels: int, outputs: int, size: int, kernel: int, groups: int = 1
) -> onnx.ModelProto:
    """One convolution and a ReLU."""
    maker = ModelMaker()
    y = maker.conv(
        maker.input("x", 1, channels, size, size), channels, outputs, kernel, groups=groups
    )
    return maker.model(maker.node("Relu", y))


def resnext_blocks() -> onnx.ModelProto:
    """A stem and three bottlenecks of ResNeXt, groups of four channels, on 28×28."""
    maker = ModelMaker()
    y = maker.node("Relu", maker.conv(maker.input("x", 1, 3, 28, 28), 3, 32))
    for inputs, width, outputs, stride in ((32, 64, 64, 1), (64, 64, 64, 1), (64, 128, 128, 2)):
        z = maker.node("Relu", maker.conv(y, inputs, width, 1))
        z = maker.conv(z, width, width, 3, groups=16, stride=stride, pads=[1] * 4)
        z = maker.conv(maker.node("Relu", z), width, outputs, 1)
        same = inputs == outputs and stride == 1
        y = y if same else maker.conv(y, inputs, outputs, 1, stride=stride)
        y = maker.node("Relu", maker.node("Add", z, y))
    return maker.model(y)


def branches(*, alone: bool) -> onnx.ModelProto:
    """Activated depthwise branches, summed: on rows, or before a dense convolution in blocks."""
    maker = ModelMaker()
    x = maker.input("x", 1, 16, 20, 20)
    near = maker.node("Relu", maker.conv(x, 16, 16, 3, groups=16))
    far = maker.conv(x, 16, 16, 3, groups=16, dilation=2, pads=[2] * 4)
    y = maker.node("Add", near, maker.node("Relu", far))
    return maker.model(y if alone else maker.conv(y, 16, 16, 3))


def clusters() -> onnx.ModelProto:
    """Windows that slide over the channels, then groups of unequal size as zeros in weights."""
    maker = ModelMaker()
    y = sliding(maker, maker.input("x", 1, 32, 15, 15), 32, 32, cg=4, overlap=0.5)
    weight = he_normal(maker.rng, (32, 32, 3, 3))
    weight[:16, 16:] = weight[16:, :8] = 0
    window = dict(kernel_shape=(3, 3), strides=(2, 2), pads=[1] * 4)
    return maker.model(maker.node("Conv", y, maker.constant(weight), **window))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobilenet_v2": lambda: models.build("mobilenetv2"),
    "shufflenet": lambda: light_network("shufflenet", logits=True),
    "resnext_blocks": resnext_blocks,
    "pointwise": lambda: convolution(33, 47, 19, 1),
    "wide pointwise": lambda: convolution(512, 384, 20, 1),
    "depthwise": lambda: convolution(18, 18, 40, 3, groups=18),
    "dense": lambda: convolution(24, 24, 14, 3),
    "grouped": lambda: convolution(20, 20, 28, 3, groups=4),
    "branches": lambda: branches(alone=True),
    "branches in a network": lambda: branches(alone=False),
    "clusters": clusters,
}
THREADS = {"shufflenet": 2}


@functools.cache
def compiled(name: str) -> tuple[onnx.ModelProto, Artifact]:
    """The network for the board."""
    model = NETWORKS[name]()
    return model, edgeconv.compile_artifact(model, TARGET, threads=THREADS.get(name, 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_onnx_runtime(name: str, address: str, tmp_path: Path) -> None:
    """Saved, loaded over there, run twice."""
    model, artifact = compiled(name)
    saved = artifact.save(tmp_path / "net.edgeconv")
    loaded = edgeconv.load(saved, device=address, timeout=TIMEOUT)
    assert isinstance(loaded, RemoteModel)
    with loaded:
        assert loaded.info.arch == "aarch64"
        assert loaded.info.emulated
        for seed in (0, 1) if name != "mobilenet_v2" else (0,):
            feeds = loaded.random_inputs(seed)
            assert_close(loaded.run(feeds), expected(model, feeds), CLOSE)


def test_every_family_is_among_them(address: str) -> None:
    used = {layer.schedule for n in NETWORKS for layer in compiled(n)[1].manifest.layers}
    assert used >= {family.name for family in FAMILIES}


def test_a_detected_target_runs(address: str, tmp_path: Path) -> None:
    """Code for the CPU that the board says it has, all its features in use."""
    with session(address, TIMEOUT) as board:
        path = tmp_path / "board.toml"
        path.write_text(to_toml(detect(board.info), "test"), encoding="utf-8")
        device = targets.load(path)
        assert {"+dotprod", "+fullfp16"} <= set(device.features)
        trial = small_convolution()
        model = RemoteModel(edgeconv.compile_artifact(trial.model, device, threads=1), board)
        assert trial.error(model.run({"x": trial.x})["y"]) <= TOLERANCE


def test_no_times_of_an_emulator(address: str, cli: Cli, tmp_path: Path) -> None:
    saved = compiled("pointwise")[1].save(tmp_path / "net.edgeconv")
    done = cli("run", saved, "--device", address, "--timeout", TIMEOUT, "--json")
    assert done.status == 0, done.err
    assert done.json["latency"] is None
    assert "is emulated" in done.err
    with session(address, TIMEOUT) as board:
        model = RemoteModel(compiled("pointwise")[1], board)
        with pytest.raises(DeviceError, match="is emulated"):
            model.benchmark()
        with pytest.raises(DeviceError, match="is emulated"):
            model.profile()
        assert (model.step_times(3) > 0).all()


def test_check(address: str, cli: Cli) -> None:
    done = cli("device", "check", address, "-t", TARGET, "--timeout", TIMEOUT, "--json")
    assert done.status == 0, done.err
    found = {(c["section"], c["name"]): c for c in done.json["checks"]}
    assert found["Computing", "convolution"]["status"] == "ok"
    assert "dotprod" in found["Board", "features"]["detail"]
    assert found["Board", "emulation"]["status"] == "warning"
    done = cli("device", "check", address, "-t", "x86-avx2", "--timeout", TIMEOUT)
    assert done.status == 1
    assert "it is for x86_64, and the board's processes are aarch64" in done.out


def test_list(address: str, cli: Cli) -> None:
    place = address.removeprefix("rpc://").partition("/")[0]
    done = cli("device", "list", "--tracker", place, "--timeout", TIMEOUT, "--json")
    assert done.status == 0, done.err
    (row,) = done.json["boards"]
    assert (row["key"], row["free"], len(row["boards"])) == ("rpi4", 1, 1)


def test_the_server_survives_a_crash(address: str, tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("no C compiler for AArch64 (CONTRIBUTING.md)")
    source, library = tmp_path / "net.c", tmp_path / "net.so"
    source.write_text(boards._LIBRARY.format(body=boards.BODIES["crash"]), encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    artifact = compiled("pointwise")[1]
    crashing = replace(artifact, module=None, shared_library=library.read_bytes())
    with session(address, TIMEOUT) as board:
        model = RemoteModel(crashing, board)
        with pytest.raises(DeviceError, match="died of SIGSEGV"):
            model.run(model.random_inputs())
    with session(address, TIMEOUT) as board:
        array = np.arange(10, dtype=np.int64)
        assert np.array_equal(board.read(board.tensor(array)), array)


def test_code_for_this_machine_is_refused(address: str) -> None:
    if targets.host().arch == "aarch64":
        pytest.skip("this machine is an AArch64 one")
    with session(address, TIMEOUT) as board:
        with pytest.raises(DeviceError, match="board's processes are aarch64"):
            RemoteModel(boards.network(), board)
