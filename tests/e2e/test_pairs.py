"""Networks of pointwise and depthwise convolutions, all fused, against ONNX Runtime."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import edgeconv
from edgeconv import fusion, targets
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.graph.ir import Graph, Node
from edgeconv.layout import Layout
from edgeconv.workload import Conv2d, ConvTask, PairTask


class Always(fusion.Judge):
    """Fuses wherever a kernel can."""

    def __call__(self, graph: Graph, first: Node, second: Node) -> float:
        super().__call__(graph, first, second)
        return 1.0


class Never(fusion.Judge):
    """Fuses nothing."""

    def __call__(self, graph: Graph, first: Node, second: Node) -> float:
        return 0.0


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are fused, whether it pays or not."""
    monkeypatch.setattr(fusion, "Judge", Always)


def network(seed: int) -> onnx.ModelProto:
    """A random chain of BSConv-U and BSConv-S, separable convolutions and inverted residuals."""
    rng = random.Random(seed)
    channels = rng.choice((3, 8, 12, 17, 24))
    b = Builder(
        "pairs", (rng.choice((1, 2)), channels, rng.randint(9, 22), rng.randint(9, 22)), seed
    )
    x = "input"
    for _ in range(rng.randint(1, 3)):
        outputs, kernel = rng.choice((8, 12, 17, 24)), rng.choice((3, 5, 7))
        stride, activation = rng.choice((1, 1, 2)), rng.choice(("relu", "relu6", ""))
        kind = rng.choice(("bsconv_u", "bsconv_s", "separable", "inverted"))
        y, inputs = x, channels
        if kind == "separable":
            y = b.conv_bn(y, inputs, inputs, kernel, stride, inputs, activation)
            y = b.conv_bn(y, inputs, outputs, 1, activation=activation)
        elif kind == "inverted":
            y = b.conv_bn(y, inputs, 2 * inputs, 1, activation="relu6")
            y = b.conv_bn(y, 2 * inputs, 2 * inputs, kernel, 1, 2 * inputs, "relu6")
            outputs = rng.choice((inputs, outputs))
            y = b.conv_bn(y, 2 * inputs, outputs, 1, activation="")
            y = b.node("Add", [x, y]) if inputs == outputs else y
        else:
            if kind == "bsconv_s":
                y = b.conv_bn(y, inputs, 4, 1, activation="")
                inputs = 4
            y = b.conv_bn(y, inputs, outputs, 1, activation="")
            y = b.conv_bn(y, outputs, outputs, kernel, stride, outputs, activation)
        x, channels = y, outputs
    return b.model(x)


def check(seed: int, target: targets.Device | str, tolerance: float = 3e-5) -> int:
    """Compare with ONNX Runtime; the number of fused layers."""
    proto = network(seed)
    feeds = {"input": np.random.default_rng(seed).standard_normal(_shape(proto), np.float32)}
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feeds)
    model = edgeconv.compile(proto, target, threads=1, numerics="exact")
    (got,) = model.run(feeds).values()
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert error <= tolerance, f"seed {seed} on {target}: {error:.1e}"
    return sum(" + " in layer.op for layer in model.manifest.layers)


def _shape(proto: onnx.ModelProto) -> list[int]:
    return [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]


@pytest.mark.usefixtures("always")
def test_random_networks() -> None:
    assert sum(check(seed, "host") for seed in range(4)) >= 4


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("target", ["x86-avx2", "x86-sse4"])
def test_narrower_vectors(target: str) -> None:
    cpu = targets.load(target)
    if not cpu.is_native:
        pytest.skip(f"this machine can't run code for {target}")
    assert check(1, target) + check(2, target) >= 2


@pytest.mark.slow
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_random_networks(seed: int) -> None:
    check(seed, "host")


def expanding() -> onnx.ModelProto:
    """A narrow pointwise convolution whose many outputs are filtered: fusing pays everywhere."""
    b = Builder("expanding", (1, 16, 112, 112))
    x = b.conv_bn("input", 16, 16, 3, activation="relu6")
    y = b.conv_bn(x, 16, 96, 1, activation="relu6")
    y = b.conv_bn(y, 96, 96, 3, 2, 96, "relu6")
    return b.model(b.conv_bn(y, 96, 24, 1, activation=""))


def test_explain_tells_what_is_fused_and_why() -> None:
    layers = edgeconv.explain(expanding(), "x86-avx512", threads=1)
    (layer,) = [x for x in layers if " + " in x.op]
    assert layer.op == "pointwise + depthwise"
    assert layer.schedule == "pointwise_depthwise"
    assert " then " in layer.workload
    assert "as two kernels" in layer.reason
    assert layer.macs == 112 * 112 * 16 * 96 + 56 * 56 * 96 * 9
    exact = edgeconv.explain(expanding(), "x86-avx512", threads=1, numerics="exact")
    assert [x.op for x in exact] == [x.op for x in layers]


def test_explain_tells_why_not() -> None:
    b = Builder("wide", (1, 256, 7, 7))
    x = b.conv_bn("input", 256, 256, 3)
    x = b.conv_bn(x, 256, 256, 1)
    x = b.conv_bn(x, 256, 256, 3, 1, 256)
    model = b.model(b.conv_bn(x, 256, 16, 3))
    layers = edgeconv.explain(model, "x86-avx512", threads=1)
    refused = [
        dict(x.refused).get("pointwise_depthwise", "") for x in layers if x.op == "pointwise"
    ]
    assert any("fusing with the next layer" in reason for reason in refused)


def test_memory_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map between is in no workspace."""

    def workspace(judge: type[fusion.Judge]) -> int:
        monkeypatch.setattr(fusion, "Judge", judge)
        return edgeconv.compile(expanding(), threads=1).manifest.workspace_bytes

    assert workspace(Never) - workspace(Always) > 4 * 96 * 112 * 112 / 2


def pair_task(one: Conv2d, other: Conv2d) -> PairTask:
    """Between channel blocks, with bias."""
    return PairTask(
        ConvTask(one, Layout(16, one.padding), Layout(1), True, None, None),
        ConvTask(other, Layout(1), Layout(16), True, None, None),
    )


@pytest.mark.parametrize(("channels", "hidden"), [(64, False), (128, True)])
def test_deep_pointwise_convolutions_stay_alone(channels: int, hidden: bool) -> None:
    """From 128 input channels on, computing hides how the map is moved, if there is an L3 cache."""
    one = Conv2d.parse(f"{channels}x112x112->{channels} k1x1")
    other = Conv2d.parse(f"{channels}x112x112->{channels} k3x3 p1,1,1,1 g{channels}")
    task = pair_task(one, other)
    device = targets.load("x86-avx512")
    choice = fusion.choose(task, device)
    assert choice.hidden is hidden
    assert not choice.saved or not hidden
    assert ("computing hides" in choice.why_not) is hidden
    assert not fusion.choose(task, dataclasses.replace(device, l3_kib=0)).hidden


@pytest.mark.parametrize(("channels", "size", "hidden"), [(64, 56, True), (128, 112, False)])
def test_what_a_pointwise_convolution_reads_ahead_is_not_fused(
    channels: int, size: int, hidden: bool
) -> None:
    """A depthwise convolution before it stays alone, unless the map is large or no L3 cache is."""
    one = Conv2d.parse(f"{channels}x{size}x{size}->{channels} k3x3 p1,1,1,1 g{channels}")
    other = Conv2d.parse(f"{channels}x{size}x{size}->{channels} k1x1")
    task = pair_task(one, other)
    device = targets.load("x86-avx512")
    assert fusion.choose(task, device).hidden is hidden
    assert not fusion.choose(task, dataclasses.replace(device, l3_kib=0)).hidden
