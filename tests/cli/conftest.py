"""Small networks, compiled once a session, and a way to call commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgeconv.cli import app

SHAPE = (1, 8, 12, 12)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be JSON and nothing else."""
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs a command in this process; it must not fail with anything but an exit status."""

    def run(*arguments: object) -> Done:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], **weights: np.ndarray
) -> Path:
    """Write a model whose only output is "y"."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _convolutions(path: Path, shape: list[Any]) -> Path:
    rng = np.random.default_rng(0)

    def weight(*sizes: int) -> np.ndarray:
        return rng.standard_normal(sizes).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "a"], ["t"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["t"], ["u"], name="relu"),
        helper.make_node("Conv", ["u", "b"], ["v"], name="wide", pads=[1] * 4, group=16),
        helper.make_node("Conv", ["v", "c"], ["w"], name="half", pads=[2] * 4, group=2,
                         dilations=[2, 2]),
        helper.make_node("Conv", ["w", "d"], ["y"], name="mix"),
    ]  # fmt: skip
    return save(
        path,
        nodes,
        {"x": shape},
        a=weight(16, 8, 3, 3),
        b=weight(16, 1, 3, 3),
        c=weight(16, 8, 3, 3),
        d=weight(4, 16, 1, 1),
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared models lie; tests write elsewhere."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    """Dense, depthwise, dilated grouped and pointwise convolutions: x[1, 8, 12, 12] -> y."""
    return _convolutions(folder / "net.onnx", list(SHAPE))


@pytest.fixture(scope="session")
def dynamic(folder: Path) -> Path:
    """The same with an open batch and image size."""
    return _convolutions(folder / "dynamic.onnx", ["N", 8, "H", "W"])


@pytest.fixture(scope="session")
def pair(folder: Path) -> Path:
    """Two inputs: y = first + second."""
    nodes = [helper.make_node("Add", ["first", "second"], ["y"], name="sum")]
    return save(folder / "pair.onnx", nodes, {"first": [2, 3], "second": [2, 3]})


@pytest.fixture(scope="session")
def artifact(folder: Path, model: Path, cli: Cli) -> Path:
    """`model` compiled for this machine."""
    path = folder / "net.edgeconv"
    done = cli("compile", model, "--threads", 1, "-o", path)
    assert done.status == 0, done.err
    return path


@pytest.fixture(scope="session")
def pair_artifact(folder: Path, pair: Path, cli: Cli) -> Path:
    """`pair` compiled for this machine."""
    path = folder / "pair.edgeconv"
    done = cli("compile", pair, "--threads", 1, "-o", path)
    assert done.status == 0, done.err
    return path
