"""What is measured: shape files, group sweeps, axes, and the work that reports count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeconv.benchmarks import cases, harness, networks, random_layers, shapes
from edgeconv.benchmarks.cases import Square
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.errors import EdgeconvError
from edgeconv.workload import Conv2d


@pytest.mark.parametrize(
    "name", ["wrn40_2_g4", pytest.param("resnet50", marks=pytest.mark.slow), "shufflenetv1_g3"]
)
def test_the_shape_files_are_those_of_the_networks(name: str) -> None:
    path = shapes.FOLDER / f"{name}.txt"
    assert path.read_text(encoding="utf-8") == shapes.text(name, networks.load(name))
    assert shapes.read(path) == list(shapes.of_network(networks.load(name)))


def test_every_shape_file_is_of_the_grammar() -> None:
    assert len(shapes.names()) > 15
    for name in shapes.names():
        assert shapes.read(shapes.find(name))


def test_faults_in_shape_files_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("# a comment\n\n8x4x4->8 k1  # why\n8x4x4->8 k1\n", encoding="utf-8")
    assert shapes.read(path) == [Conv2d(1, 8, 4, 4, 8, (1, 1))]
    path.write_text("8x4x4->8 k1\n8x4->8 k1\n", encoding="utf-8")
    with pytest.raises(EdgeconvError, match=r"s\.txt:2: shape '8x4->8 k1'"):
        shapes.read(path)
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(EdgeconvError, match="holds no shapes"):
        shapes.read(path)
    with pytest.raises(EdgeconvError, match="no file nosuch"):
        shapes.find("nosuch")


def test_groups_of_a_sweep() -> None:
    found, skipped = cases.groups(Square(), [12, 16], [8, 4], ["1", "4", "8", "dw", "16"])
    assert [c.key.partition(",")[0].split()[0] for c in found[:2]] == ["12x8x8->12"] * 2
    layers = [(f["channels"], f["groups"], f["layer"]) for f in (c.make()[1] for c in found)]
    assert [(c, g) for c, g, _ in layers] == [
        *((12, g) for g in (1, 4, 12)),
        *((16, g) for g in (1, 4, 8, 16)),  # 16 and dw are one case
    ]
    assert layers[-1][2] == "16x4x4->16 k3x3 s1x1 p1,1,1,1 d1x1 g16"
    assert skipped == ["8 groups of 12 channels", "16 groups of 12 channels"]


@pytest.mark.parametrize(
    ("channels", "sizes", "counts", "reason"),
    [
        ([6], [4], ["4"], "no group count divides"),
        ([6], [4], ["half"], "'half' is no group count"),
        ([6, 8], [4, 5, 6], ["1"], "do not pair"),
    ],
)
def test_sweeps_that_make_no_sense(
    channels: list[int], sizes: list[int], counts: list[str], reason: str
) -> None:
    with pytest.raises(EdgeconvError, match=reason):
        cases.groups(Square(), channels, sizes, counts)


def test_axes_keep_the_channels_of_a_group() -> None:
    found = list(cases.scaling(Square(32, 8, groups=4), [1, 2], [8, 64], [4, 8]))
    assert [(c.key.partition(":")[0], c.threads) for c in found] == [
        *(("threads", 1), ("threads", 2), ("channels", 1)),
        *(("channels", 1), ("size", 1), ("size", 1)),
    ]
    convolutions = [Conv2d.parse(c.make()[1]["layer"]) for c in found]
    assert {c.in_channels_per_group for c in convolutions} == {8}
    assert len({c.key for c in found}) == 6


@pytest.mark.parametrize("mode", ["alone", "chain"])
def test_work_and_traffic_are_those_of_the_model(mode: cases.Mode) -> None:
    conv = Conv2d.parse("2*12x9x7->12 k3 p1 g3")
    case = cases.of_layer(conv, mode=mode)
    model, facts = case.make()
    weights = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    layers = 4 if mode == "chain" else 1
    assert facts["bytes"] == 4 * (weights + layers * 2 * (2 * 12 * 9 * 7))
    assert facts["flops"] == layers * 2 * (2 * 12 * 9 * 7) * 4 * 9
    wider = Conv2d(1, 6, 9, 8, 12, (1, 1))
    with pytest.raises(EdgeconvError, match="can't be chained"):
        cases.of_layer(wider, mode="chain")


def test_work_of_a_network() -> None:
    model, facts = cases.of_network("wrn40_2_g4").make()
    weights = [t for t in model.graph.initializer if len(t.dims) in (2, 4)]
    assert facts["network"] == "wrn40_2_g4"
    assert facts["parameters"] > sum(int(np.prod(t.dims)) for t in weights)
    assert 2e8 < facts["flops"] < 3e8
    assert facts["bytes"] > 4 * facts["parameters"]


def test_open_dimensions_are_fixed_for_all_engines(tmp_path: Path) -> None:
    b = Builder("open", (1, 4, 6, 6))
    model = b.model(b.relu(b.conv("input", 4, 8, (3, 3))))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param, dims[3].dim_param = "N", "W"
    with pytest.raises(EdgeconvError, match="'input' has open dimensions"):
        networks.with_fixed_shapes(model, {})
    with pytest.raises(EdgeconvError, match="cannot have shape 2x4x7x6"):
        networks.with_fixed_shapes(model, {"input": (2, 4, 7, 6)})
    with pytest.raises(EdgeconvError, match="no input 'x'"):
        networks.with_fixed_shapes(model, {"x": (1,)})
    fixed = networks.with_fixed_shapes(model, {"input": (2, 4, 6, 5)})
    onnx.save(fixed, tmp_path / "m.onnx")
    ready, failed = harness.prepare(
        tmp_path / "m.onnx", harness.random_inputs(fixed), ["onnxruntime"], 1
    )
    assert not failed
    assert ready["onnxruntime"].bound.outputs()[0].shape == (2, 8, 6, 5)


def test_names_are_checked_before_anything_is_measured(tmp_path: Path) -> None:
    networks.check(["mobilenetv2", "squeezenet"])
    with pytest.raises(EdgeconvError, match="no network 'nosuch'"):
        networks.check(["mobilenetv2", "nosuch"])
    with pytest.raises(EdgeconvError, match="does not exist"):
        networks.check([str(tmp_path / "n.onnx")])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(EdgeconvError, match="can't read"):
        networks.load(str(broken))


def test_random_layers_are_of_the_grammar() -> None:
    for layer_class in random_layers.CLASSES:
        for conv in random_layers.draw(layer_class, 10):
            assert Conv2d.parse(str(conv)) == conv
