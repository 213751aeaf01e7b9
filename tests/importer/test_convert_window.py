"""Convolution and pooling against ONNX Runtime: paddings, dilations, groups, ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.importer.single import agree, noise, ours, single

SIZES = {1: (17,), 2: (13, 10), 3: (7, 6, 8)}
KERNELS = {1: (4,), 2: (3, 4), 3: (2, 3, 2)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv(rank: int, auto_pad: str, dilation: int, groups: int) -> None:
    if dilation > 1 and auto_pad.startswith("SAME"):
        pytest.skip("ONNX Runtime refuses it; the next test knows the answer")
    attrs: dict[str, Any] = {"strides": [2] * rank, "dilations": [dilation] * rank}
    if auto_pad == "NOTSET":
        attrs["pads"] = [1, 2, 0, 1, 2, 1][: 2 * rank]
    else:
        attrs["auto_pad"] = auto_pad
    x = {"x": noise(2, 4, *SIZES[rank])}
    weights = {"w": noise(6, 4 // groups, *KERNELS[rank], seed=1), "b": noise(6, seed=2)}
    agree(single("Conv", x, weights, opset=11, group=groups, **attrs), x)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_with_dilation_is_that_of_the_spread_kernel(lower: bool, stride: int) -> None:
    x, w = {"x": noise(1, 2, 11, 8)}, noise(3, 2, 3, 2)
    spread = np.zeros((3, 2, 5, 3), np.float32)
    spread[:, :, ::2, ::2] = w
    auto_pad = "SAME_LOWER" if lower else "SAME_UPPER"
    common: dict[str, Any] = {"opset": 11, "strides": [stride] * 2, "auto_pad": auto_pad}
    dilated = single("Conv", x, {"w": w}, dilations=[2, 2], **common)
    plain = single("Conv", x, {"w": spread}, **common)
    np.testing.assert_allclose(ours(dilated, x)["y0"], ours(plain, x)["y0"], atol=1e-5)
    agree(plain, x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "attrs",
    [
        {"pads": 1, "output_padding": 1},
        {"dilations": 2},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"output_shape": 3},
        {"group": 2},
    ],
    ids=lambda a: "-".join(a),
)
def test_conv_transpose(rank: int, attrs: dict[str, Any]) -> None:
    size = SIZES[rank]
    full: dict[str, Any] = {"strides": [2] * rank}
    for name, value in attrs.items():
        full[name] = value
        if name in ("output_padding", "dilations"):
            full[name] = [value] * rank
        if name == "pads":
            full[name] = [value] * (2 * rank)
        if name == "output_shape":
            full[name] = [2 * d + 1 for d in size]
    groups = attrs.get("group", 1)
    x = {"x": noise(1, 4, *size)}
    weights = {"w": noise(4, 6 // groups, *KERNELS[rank], seed=1), "b": noise(6, seed=2)}
    agree(single("ConvTranspose", x, weights, opset=11, **full), x)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"pads": 1},
        {"pads": 1, "ceil_mode": 1},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"pads": 1, "dilations": 2},
    ],
    ids=lambda a: "-".join(a),
)
def test_pool(op: str, rank: int, attrs: dict[str, Any]) -> None:
    full: dict[str, Any] = {"kernel_shape": KERNELS[rank], "strides": [2] * rank}
    for name, value in attrs.items():
        full[name] = {"pads": [value] * 2 * rank, "dilations": [value] * rank}.get(name, value)
    if op == "AveragePool":
        full["count_include_pad"] = int("ceil_mode" not in attrs)
    x = {"x": noise(1, 3, *SIZES[rank])}
    agree(single(op, x, opset=19 if op == "AveragePool" else 18, **full), x)


def test_average_over_a_window_that_hangs_over_padding_and_ceiling() -> None:
    x = {"x": noise(1, 1, 7, 7)}
    attrs: dict[str, Any] = {"kernel_shape": [3, 4], "strides": [2, 3], "pads": [1, 1, 0, 0]}
    found = ours(single("AveragePool", x, opset=19, ceil_mode=1, count_include_pad=1, **attrs), x)
    padded = np.pad(x["x"][0, 0], ((1, 0), (1, 0)))
    last = padded[6:8, 3:7]  # the row that the ceiling adds does not count
    assert found["y0"].shape == (1, 1, 4, 3)
    np.testing.assert_allclose(found["y0"][0, 0, 3, 1], last.mean(), rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 1])
def test_max_pool_tells_where(rank: int, order: int) -> None:
    x = {"x": noise(2, 3, *SIZES[rank])}
    attrs = {"kernel_shape": [2] * rank, "strides": [2] * rank, "storage_order": order}
    if order and rank != 2:
        attrs["storage_order"] = 0
    agree(single("MaxPool", x, opset=12, outputs=2, **attrs), x)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pool(op: str, rank: int) -> None:
    x = {"x": noise(2, 3, *SIZES[rank])}
    agree(single(op, x, opset=13), x)
