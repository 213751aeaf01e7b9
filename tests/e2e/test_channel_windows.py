"""Sliding-channel convolutions, ragged groups and dead filters, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import edgeconv
from edgeconv import targets
from tests.e2e.models import ModelMaker, assert_close, expected, he_normal, native
from tests.e2e.sliding import sliding

ON = ("host", "x86-avx2", "x86-sse4")
TOLERANCE = 3e-5


def check(model: onnx.ModelProto, target: str = "host", threads: int = 1) -> Any:
    """Compile, compare, and return the compiled model."""
    device = targets.load(target) if target == "host" else native(target)
    compiled = edgeconv.compile(model, target=device, threads=threads)
    rng = np.random.default_rng(7)
    for _ in range(2):
        feeds = {
            i.name: rng.standard_normal(
                [d.dim_value for d in i.type.tensor_type.shape.dim], np.float32
            )
            for i in model.graph.input
        }
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE, floor=1)
    return compiled


def kinds(compiled: Any) -> list[str]:
    return [layer.op for layer in compiled.manifest.layers]


def masked(maker: ModelMaker, x: str, reads: np.ndarray, kernel: int, **attrs: Any) -> str:
    """A dense convolution with zero blocks, and a bias."""
    k, c = reads.shape
    weight = he_normal(maker.rng, (k, c, kernel, kernel)) * reads[:, :, None, None]
    bias = maker.constant(maker.rng.standard_normal(k, np.float32))
    pads = attrs.pop("pads", [kernel // 2] * 4)
    return str(
        maker.node("Conv", x, maker.constant(weight.astype(np.float32)), bias, pads=pads, **attrs)
    )


def ragged(rng: np.random.Generator, k: int, c: int, count: int) -> np.ndarray:
    return np.asarray(rng.integers(0, count, k)[:, None] == rng.integers(0, count, c))


@pytest.mark.parametrize("target", ON)
@pytest.mark.parametrize("form", ["slice", "gather", "classes"])
def test_a_sliding_channel_convolution(form: str, target: str) -> None:
    maker = ModelMaker()
    y = sliding(maker, maker.input("x", 2, 24, 9, 7), 24, 48, cg=4, overlap=0.5, form=form)
    compiled = check(maker.model(maker.node("Relu", y)), target)
    assert kinds(compiled) == ["sliding-channel"]


def test_steps_that_are_not_whole() -> None:
    maker = ModelMaker()
    y = sliding(maker, maker.input("x", 1, 25, 8, 8), 25, 31, cg=3, overlap=0.33)
    assert kinds(check(maker.model(y), threads=2)) == ["sliding-channel"]


def norm(maker: ModelMaker, y: str, channels: int) -> str:
    """Batch norm that does something."""
    low, high = (0.5, -0.5, -0.5, 0.5), (1.5, 0.5, 0.5, 1.5)
    values = [
        maker.constant(maker.rng.uniform(a, b, channels).astype(np.float32))
        for a, b in zip(low, high, strict=True)
    ]
    return str(maker.node("BatchNormalization", y, *values))


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("form", ["slice", "split", "gather", "gather32", "table", "classes"])
def test_every_way_to_write_it(form: str, opset: int) -> None:
    """Recognised in every form, with batch norm and an activation before the order is restored."""
    maker = ModelMaker(opset=opset)
    x = maker.input("x", 1, 24, 5, 7)

    def between(y: str) -> str:
        return str(maker.node("Relu", norm(maker, y, 48)))

    y = sliding(maker, x, 24, 48, cg=3, overlap=0.5, form=form, between=between)
    y = maker.conv(y, 48, 48, 3, groups=48)
    model = maker.model(y)
    assert edgeconv.inspect(model).findings == ("sliding-channel: 1 convolution recognised",)
    moves = {"slice", "concat", "gather", "reshape", "transpose", "channel_shuffle"}
    assert not moves & {layer.op for layer in edgeconv.explain(model, target="x86-avx2")}
    if opset == 13:
        check(model)


def test_activations_of_some_windows_only() -> None:
    """Between the gathering and the convolution, an activation is none of its windows' business."""
    maker = ModelMaker()
    x = maker.input("x", 1, 24, 5, 7)
    rows = np.array([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]], np.int64)
    parts = [maker.node("Gather", x, maker.constant(r), axis=1) for r in rows]
    parts[1] = maker.node("Relu", parts[1])
    wide = maker.node("Concat", *parts, axis=1)
    model = maker.model(maker.conv(wide, 12, 24, 1, groups=3))
    assert not edgeconv.inspect(model).findings
    check(model)


def separable(maker: ModelMaker, x: str, c: int, k: int, stride: int, residual: bool) -> str:
    """Depthwise, then sliding-channel, each with batch norm and ReLU."""
    pads = [1, 1, 1, 1]
    y = maker.conv(x, c, c, 3, stride=stride, groups=c, pads=pads, bias=False)
    y = maker.node("Relu", norm(maker, y, c))

    def between(y: str) -> str:
        y = norm(maker, y, k)
        return y if residual else str(maker.node("Relu", y))

    y = sliding(maker, y, c, k, cg=2, overlap=0.5, form="classes", bias=False, between=between)
    return str(maker.node("Relu", maker.node("Add", y, x))) if residual else y


@pytest.mark.parametrize("target", ON)
def test_a_network_of_them(target: str) -> None:
    maker = ModelMaker()
    y = maker.conv(maker.input("x", 1, 3, 20, 22), 3, 24, 3, stride=2)
    for c, k, stride, residual in ((24, 24, 1, True), (24, 48, 2, False), (48, 48, 1, True)):
        y = separable(maker, y, c, k, stride, residual)
    y = maker.conv(maker.node("GlobalAveragePool", y), 48, 10, 1)
    compiled = check(maker.model(y), target)
    assert kinds(compiled).count("sliding-channel") == 3


def test_nothing_is_copied_between_them() -> None:
    """Depthwise convolutions read and write the rows that sliding-channel ones want."""
    maker = ModelMaker()
    y = maker.conv(maker.input("x", 1, 3, 20, 22), 3, 24, 3, stride=2)
    for c, k, stride in ((24, 24, 1), (24, 48, 2), (48, 48, 1)):
        y = separable(maker, y, c, k, stride, residual=False)
    y = maker.conv(maker.node("GlobalAveragePool", y), 48, 10, 1)
    found = edgeconv.explain(maker.model(y), target="x86-avx512")
    moves = [layer for layer in found[1:] if layer.op in ("copy", "slice", "concat", "gather")]
    assert not moves, [layer.workload for layer in moves]


@pytest.mark.parametrize("target", ON)
def test_ragged_groups(target: str) -> None:
    maker = ModelMaker()
    rng = maker.rng
    y = masked(maker, maker.input("x", 1, 20, 13, 12), ragged(rng, 48, 20, 3), 3, strides=[2, 2])
    y = masked(maker, maker.node("Relu", y), ragged(rng, 30, 48, 4), 5)
    y = maker.conv(maker.node("Relu", y), 30, 30, 3, groups=30)
    y = masked(maker, y, ragged(rng, 21, 30, 3), 3, dilations=[2, 2], pads=[2, 1, 2, 3])
    compiled = check(maker.model(y), target)
    assert sum("ragged groups" in kind for kind in kinds(compiled)) == 3


def test_dead_filters() -> None:
    maker = ModelMaker()
    x = maker.input("x", 1, 6, 11, 10)
    y = maker.conv(x, 6, 24)
    weights = [onnx.numpy_helper.to_array(w).copy() for w in maker.weights]
    weights[0][[2, 3, 11]] = 0
    weights[1][[2, 3, 11]] = -1  # below zero: nothing behind ReLU
    for tensor, values in zip(maker.weights, weights, strict=True):
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    y = maker.node("MaxPool", maker.node("Relu", y), kernel_shape=[3, 3], strides=[2, 2])
    model = maker.model(maker.conv(y, 24, 32, 3))
    compiled = check(model)
    workloads = [layer.workload for layer in compiled.manifest.layers if "k3x3" in layer.workload]
    assert "->21 " in workloads[0]
    assert workloads[1].startswith("21x")
    (line,) = edgeconv.inspect(model).findings
    assert line.startswith("dead filters removed: 3 channels, ")


def random_case(seed: int) -> onnx.ModelProto:
    """One sliding-channel convolution or ragged groups, between layers or alone."""
    rng = np.random.default_rng(seed)
    maker = ModelMaker(seed)
    c, k = int(rng.integers(4, 70)), int(rng.integers(2, 70))
    h, w = (int(v) for v in rng.integers(3, 30, 2))
    inner, y = bool(rng.integers(2)), maker.input("x", int(rng.integers(1, 3)), c, h, w)
    if inner:
        y = maker.node("Relu", maker.conv(y, c, c, 3, groups=int(rng.choice([1, c]))))
    if rng.integers(2):
        cg, overlap = int(rng.integers(2, max(3, c // 2))), float(rng.uniform(0, 0.9))
        form = str(rng.choice(["slice", "gather"]))
        y = sliding(maker, y, c, k, cg=min(cg, c // 2), overlap=overlap, form=form)
    else:
        kernel, stride = int(rng.choice([1, 3, 5])), int(rng.integers(1, 3))
        reads = ragged(rng, k, c, int(rng.integers(2, 7)))
        y = masked(maker, y, reads, kernel, strides=[stride, stride])
    if inner:
        y = maker.conv(maker.node("Relu", y), k, k, 3, groups=int(rng.choice([1, k])))
    return maker.model(y)


@pytest.mark.parametrize("seed", range(6))
def test_random_cases(seed: int) -> None:
    check(random_case(seed), threads=1 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_random_cases(seed: int) -> None:
    check(random_case(seed), ON[seed % 3], threads=1 + seed % 2)
