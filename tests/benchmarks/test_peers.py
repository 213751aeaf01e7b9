"""Every engine that is installed gives ONNX Runtime's result, on layers and on whole networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeconv.benchmarks import harness, models, networks, peers, random_layers
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.peers import PEERS, Unsupported
from edgeconv.benchmarks.peers.onnx_graph import OnnxGraph
from edgeconv.benchmarks.random_layers import CLASSES
from edgeconv.workload import Conv2d

# Those that need seconds to compile a network, or bring their own threads, have the sweeps.
QUICK = ("edgeconv", "openvino", "tflite", "ncnn", "mnn", "torch", "torch_cl")
TIGHT = 1e-5
LIMITS = {"mnn": harness.MAX_PEER_ERROR}  # Winograd

quick = pytest.mark.parametrize("name", QUICK)


def check(name: str, model: onnx.ModelProto, folder: Path, limit: float = TIGHT) -> None:
    """The engine's output is the reference's."""
    if not PEERS[name].available:
        pytest.skip(PEERS[name].install)
    path = folder / "model.onnx"
    onnx.save(model, path)
    ready, failed = harness.prepare(path, harness.random_inputs(model), [name], 1)
    assert not failed
    assert ready[name].error <= LIMITS.get(name, limit)


@quick
@pytest.mark.parametrize("layer_class", CLASSES, ids=lambda c: c.name)
def test_layers(name: str, layer_class: random_layers.LayerClass, tmp_path: Path) -> None:
    conv = next(
        c
        for c in random_layers.draw(layer_class, 20)
        if c.macs < 3e7 and random_layers.chainable(c)
    )
    check(name, random_layers.chain(conv, length=2), tmp_path)


@quick
def test_uneven_padding(name: str, tmp_path: Path) -> None:
    conv = Conv2d(1, 12, 11, 9, 24, (3, 2), (2, 1), (0, 1, 2, 3), groups=3)
    check(name, random_layers.alone(conv), tmp_path)


@quick
@pytest.mark.parametrize("network", ["shufflenetv1_g3", "wrn40_2_g4", "wrn40_2_gn"])
def test_networks(name: str, network: str, tmp_path: Path) -> None:
    check(name, networks.load(network), tmp_path, limit=1e-4)


def test_every_engine_has_its_line_to_install_it() -> None:
    for name, peer in PEERS.items():
        assert peer.name == name
        assert peer.install.startswith("pip install ")
        assert peer.available == all(importlib.util.find_spec(m) for m in peer.modules)


def test_find_separates_the_absent() -> None:
    installed, absent = peers.find(["edgeconv", "mnn"])
    assert [p.name for p in (*installed, *absent)] == ["edgeconv", "mnn"] or absent == []
    with pytest.raises(KeyError):
        peers.find(["nosuch"])


def test_what_takes_long_runs_only_on_request() -> None:
    slow = {"tvm_tuned", "edgeconv_tuned"}
    everything = [p.name for found in peers.find() for p in found]
    assert set(everything) == PEERS.keys() - slow
    for name in slow:
        assert PEERS[name].on_request
        assert [p.name for found in peers.find([name]) for p in found] == [name]


def test_one_delegate_takes_a_whole_flatbuffer(tmp_path: Path) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from edgeconv.benchmarks.peers.tflite import wholly_delegated
    from edgeconv.benchmarks.peers.tflite_writer import convert

    conv = Conv2d(1, 12, 11, 9, 24, (3, 3), (2, 2), (1, 1, 1, 1), groups=3)
    onnx.save(random_layers.alone(conv), tmp_path / "m.onnx")
    content = convert(tmp_path / "m.onnx")
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    for options, wanted in (({}, True), ({"experimental_op_resolver_type": plain}, False)):
        made = interpreter.Interpreter(model_content=content, **options)
        made.allocate_tensors()
        assert wholly_delegated(made) is wanted


def test_what_the_converters_lack_is_named(tmp_path: Path) -> None:
    from edgeconv.benchmarks.peers.torch_graph import to_torch

    b = Builder("odd", (1, 4, 8, 8))
    onnx.save(b.model(b.node("Erf", ["input"])), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match="Erf"):
        to_torch(tmp_path / "m.onnx")


def test_batch_norm_is_folded_only_where_the_convolution_has_no_other_reader(
    tmp_path: Path,
) -> None:
    b = Builder("norm", (1, 4, 8, 8))
    alone = b.batch_norm(b.conv("input", 4, 4, (3, 3)), 4)
    shared = b.conv(alone, 4, 4, (3, 3))
    out = b.node("Add", [b.batch_norm(shared, 4), shared])
    onnx.save(b.model(out), tmp_path / "m.onnx")
    graph = OnnxGraph(tmp_path / "m.onnx")
    assert [n.op for n in graph.nodes] == ["Conv", "Conv", "BatchNormalization", "Add"]


def test_errors_are_found() -> None:
    a = np.array([1.0, -2.0])
    assert harness.relative_error([a], [a]) == 0
    assert harness.relative_error([a + np.array([0, 0.5])], [a]) == 0.25
    assert harness.relative_error([a[:1]], [a]) == float("inf")
    assert harness.relative_error([a * np.nan], [a]) == float("inf")


@pytest.mark.parametrize(
    ("network", "groups"), [("resnet34_g8", {1, 8}), ("wrn40_2_gn", {1, 16, 32, 64, 128})]
)
def test_the_groups_of_g_networks(network: str, groups: set[int]) -> None:
    convolutions = [n for n in models.build(network).graph.node if n.op_type == "Conv"]
    found = []
    for node in convolutions:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found.append((tuple(attributes["kernel_shape"]), attributes["group"]))
    assert {g for _, g in found} == groups
    dense_spatial = [k for k, g in found if g == 1 and k != (1, 1)]
    assert len(dense_spatial) == 1  # the stem
    grouped = sum(g > 1 for _, g in found)
    assert grouped == {"resnet34_g8": 32, "wrn40_2_gn": 36}[network]
