"""Operators whose meaning or form changed between opsets 7 and 23."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.importer.single import agree, noise, operators, ours, single


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 7), (4, 3)])
def test_batch_normalization(opset: int, shape: tuple[int, ...]) -> None:
    x = {"x": noise(*shape)}
    stats = {n: noise(3, seed=i) for i, n in enumerate("sbm")} | {"v": np.abs(noise(3)) + 0.1}
    model = single("BatchNormalization", x, stats, opset=opset, epsilon=1e-3)
    agree(model, x)
    assert operators(model) == ["multiply", "add"]


def test_batch_normalization_in_training() -> None:
    x = {"x": noise(4, 3, 5, 4)}
    stats = {n: noise(3, seed=i) for i, n in enumerate("sbm")} | {"v": np.abs(noise(3)) + 0.1}
    model = single("BatchNormalization", x, stats, opset=15, outputs=3, training_mode=1)
    found = ours(model, x)
    mean = x["x"].mean((0, 2, 3))
    np.testing.assert_allclose(found["y1"], stats["m"] * 0.9 + mean * 0.1, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_vanishes(opset: int) -> None:
    x = {"x": noise(2, 5)}
    model = single("Dropout", x, opset=opset, outputs=2 if opset >= 12 else 1)
    agree(model, x)
    assert operators(model) == ["identity"]  # an output needs a name of its own


@pytest.mark.parametrize("opset", [7, 11, 18, 21])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(opset: int, mode: str) -> None:
    if mode == "wrap" and opset < 19:
        pytest.skip("wrap came with opset 19")
    x, pads = {"x": noise(2, 3, 6, 5)}, [0, 0, 2, 1, 0, 0, 1, 3]
    if opset < 11:
        agree(single("Pad", x, opset=opset, mode=mode, pads=pads), x)
        return
    given = {"pads": ints(*pads), "value": np.array(1.5, np.float32)}
    agree(single("Pad", x, given, opset=opset, mode=mode), x)


def test_pad_cuts_where_pads_are_negative() -> None:
    x = {"x": noise(2, 6, 5)}
    agree(single("Pad", x, {"p": ints(0, -2, 1, 0, 1, -3)}, opset=13), x)


def test_pad_of_some_axes() -> None:
    x = {"x": noise(2, 6, 5)}
    given = {"p": ints(1, 2, 3, 4), "a": ints(-1, 0)}
    agree(single("Pad", x, given, opset=18, order=["x", "p", "", "a"]), x)


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.3), (-0.2, None), (None, None)])
def test_clip(opset: int, bounds: tuple[float | None, float | None]) -> None:
    x = {"x": noise(3, 7)}
    named = {n: v for n, v in zip(("min", "max"), bounds, strict=True) if v is not None}
    if opset < 11:
        agree(single("Clip", x, opset=opset, **named), x)
        return
    constants = {n: np.array(v, np.float32) for n, v in named.items()}
    order = ["x", *(n if n in named else "" for n in ("min", "max"))]
    agree(single("Clip", x, constants, opset=opset, order=order), x)


@pytest.mark.parametrize(
    ("shape", "allowzero"), [((0, -1), 0), ((2, 0, 6), 0), ((-1,), 0), ((4, 1, -1), 1)]
)
def test_reshape(shape: tuple[int, ...], allowzero: int) -> None:
    x = {"x": noise(2, 3, 6) if shape[0] != 4 else noise(2, 2, 6)}
    agree(single("Reshape", x, {"s": ints(*shape)}, opset=14, allowzero=allowzero), x)


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("op", ["Squeeze", "Unsqueeze"])
def test_squeeze(op: str, opset: int) -> None:
    x = {"x": noise(2, 1, 3, 1)}
    if opset < 13:
        agree(single(op, x, opset=opset, axes=[1, 3]), x)
    else:
        agree(single(op, x, {"a": ints(1, -1)}, opset=opset), x)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_softmax(op: str, opset: int, axis: int | None) -> None:
    x = {"x": noise(3, 4, 5)}
    attrs = {} if axis is None else {"axis": axis}
    agree(single(op, x, opset=opset, **attrs), x)


@pytest.mark.parametrize("opset", [7, 10, 13])
def test_slice(opset: int) -> None:
    x = {"x": noise(7, 5, 6)}
    if opset < 10:
        agree(single("Slice", x, opset=opset, starts=[1, -3], ends=[100, -1], axes=[0, 2]), x)
        return
    given = {"s": ints(-1, 4), "e": ints(-100, 0), "a": ints(0, -2), "t": ints(-2, -3)}
    agree(single("Slice", x, given, opset=opset), x)


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
def test_split(opset: int) -> None:
    x = {"x": noise(2, 7)}
    if opset >= 18:
        agree(single("Split", x, opset=opset, outputs=3, axis=1, num_outputs=3), x)
    elif opset >= 13:
        agree(single("Split", x, {"s": ints(4, 1, 2)}, opset=opset, outputs=3, axis=-1), x)
    else:
        agree(single("Split", x, opset=opset, outputs=3, axis=1, split=[4, 1, 2]), x)


REDUCTIONS = [
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("opset", [7, 13, 18])
@pytest.mark.parametrize("axes", [(1, -1), None])
def test_reduce(op: str, opset: int, axes: tuple[int, ...] | None) -> None:
    x = {"x": np.abs(noise(3, 4, 5)) + 0.1}
    since = 13 if op == "ReduceSum" else 18
    keep: dict[str, Any] = {"keepdims": int(opset == 13)}
    if axes is None:
        agree(single(op, x, opset=opset, **keep), x)
    elif opset < since:
        agree(single(op, x, opset=opset, axes=axes, **keep), x)
    else:
        agree(single(op, x, {"a": ints(*axes)}, opset=opset, **keep), x)


@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(opset: int, mode: str) -> None:
    x = {"x": noise(1, 2, 4, 5)}
    op = "Resize" if opset == 10 else "Upsample"
    if opset < 9:
        agree(single(op, x, opset=opset, mode=mode, scales=[1.0, 1.0, 2.0, 3.0]), x)
        return
    scales = np.array([1, 1, 2, 3], np.float32)
    agree(single(op, x, {"s": scales}, opset=opset, mode=mode), x)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("where", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("sizes", [(9, 11), (3, 2), (5, 14)])
def test_resize(mode: str, where: str, sizes: tuple[int, int]) -> None:
    x = {"x": noise(1, 2, 5, 7)}
    given = {"s": ints(1, 2, *sizes)}
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
    agree(single("Resize", x, given, opset=13, order=["x", "", "", "s"], **attrs), x)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_antialiased(mode: str) -> None:
    x = {"x": noise(1, 2, 15, 17)}
    given = {"s": ints(4, 7)}
    attrs: dict[str, Any] = {"mode": mode, "antialias": 1, "axes": [2, 3]}
    agree(single("Resize", x, given, opset=18, order=["x", "", "", "s"], **attrs), x)


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("constant", [True, False])
def test_gemm(opset: int, constant: bool) -> None:
    a, b, c = noise(4, 5), noise(6, 5, seed=1), noise(6, seed=2)
    x = {"a": a} if constant else {"a": a, "b": b}
    given = {"b": b, "c": c} if constant else {"c": c}
    model = single("Gemm", x, given, opset=opset, transB=1, alpha=0.5, beta=2.0)
    agree(model, x)
    assert ("dense" in operators(model)) == constant


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 1, 3, 4), (5, 4, 6)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
    ],
)
@pytest.mark.parametrize("constant", [True, False])
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], constant: bool) -> None:
    a, b = noise(*left), noise(*right, seed=1)
    x = {"a": a} if constant else {"a": a, "b": b}
    agree(single("MatMul", x, {"b": b} if constant else {}, opset=13), x)
