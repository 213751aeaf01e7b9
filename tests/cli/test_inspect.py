"""`edgeconv inspect` and `edgeconv.inspect`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

import edgeconv

from .conftest import save

MACS = [144 * 16 * 8 * 9, 144 * 16 * 9, 144 * 16 * 8 * 9, 144 * 4 * 16]


def test_layers(model: Path) -> None:
    found = edgeconv.inspect(model)
    layers = [layer for layer in found.layers if layer.is_convolution]
    assert [layer.name for layer in layers] == ["stem", "wide", "half", "mix"]
    kinds = ["dense", "depthwise", "dilated grouped", "pointwise"]
    assert [layer.kind for layer in layers] == kinds
    assert [layer.macs for layer in layers] == MACS
    assert [layer.parameters for layer in layers] == [16 * 8 * 9, 16 * 9, 16 * 8 * 9, 64]
    assert found.macs == sum(MACS)
    assert found.parameters == sum(layer.parameters for layer in layers)
    assert layers[0].workload == "8x12x12->16 k3x3 s1x1 p1,1,1,1 d1x1 g1"
    assert sum(kind.macs for kind in found.kinds) == found.macs


def test_other_products(tmp_path: Path) -> None:
    ones = np.ones
    nodes = [
        helper.make_node("ConvTranspose", ["x", "a"], ["t"], name="up", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["t"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "b"], ["y"], name="fc", transB=1),
    ]
    weights = {"a": ones((4, 6, 2, 2), np.float32), "b": ones((10, 6), np.float32)}
    found = edgeconv.inspect(save(tmp_path / "n.onnx", nodes, {"x": [2, 4, 5, 5]}, **weights))
    layers = {layer.name: layer for layer in found.layers}
    assert layers["up"].kind == "transposed dense"
    assert layers["up"].macs == 2 * 4 * 25 * 6 * 4
    assert layers["fc"].kind == "fully connected"
    assert layers["fc"].macs == 2 * 10 * 6


def test_a_shared_weight_counts_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t"], name="one"),
        helper.make_node("Conv", ["t", "w"], ["y"], name="two"),
    ]
    weight = np.ones((4, 4, 1, 1), np.float32)
    found = edgeconv.inspect(save(tmp_path / "n.onnx", nodes, {"x": [1, 4, 5, 5]}, w=weight))
    assert found.parameters == 16


def test_table(cli, model: Path) -> None:
    done = cli("inspect", model)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["#", "Layer", "Operator", "Shapes", "MMAC", "Parameters"]
    stem = next(line for line in lines if " stem " in line)
    assert stem.endswith("0.17       1,152")
    assert any(line.startswith("total ") for line in lines)
    assert "input   x: float32[1, 8, 12, 12]" in lines
    assert not [line for line in lines if line != line.rstrip()]


def test_json(cli, model: Path) -> None:
    found = cli("inspect", model, "--json").json
    assert found["macs"] == sum(MACS)
    assert found["layers"][0]["name"] == "stem"
    assert {kind["kind"] for kind in found["kinds"]} >= {"dense", "depthwise", "pointwise"}


def test_open_shapes(cli, dynamic: Path) -> None:
    assert "--input-shape" in cli("inspect", dynamic).err
    found = cli("inspect", dynamic, "--input-shape", "x=2x8x6x6", "--json").json
    assert found["inputs"][0]["shape"] == [2, 8, 6, 6]


def test_artifact(cli, artifact: Path) -> None:
    done = cli("inspect", artifact)
    assert done.status == 0
    assert "runs here      yes" in done.out
    assert f"made by        edgeconv {edgeconv.__version__}" in done.out
    found = cli("inspect", artifact, "--json").json
    assert found["threads"] == 1
    assert found["file_bytes"] == artifact.stat().st_size
    assert "stem" in [layer["name"] for layer in found["layers"]]


def test_control_characters_are_not_printed(cli, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="re\x1b[31m\nlu")]
    path = save(tmp_path / "n.onnx", nodes, {"x": [1, 4]})
    done = cli("inspect", path)
    assert r"re\x1b[31m\nlu" in done.out
