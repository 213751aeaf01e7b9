"""`edgeconv.compress`: exact at full rank, plain ONNX, calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.errors import EdgeconvError, InputError, ModelError
from tests.e2e.models import ModelMaker, assert_close, expected, relative_error

TOLERANCE = 1e-4


def every_kind(opset: int = 17) -> onnx.ModelProto:
    """Strides, dilations, paddings of all sorts; grouped, depthwise, 1×1; a volume of one axis."""
    m = ModelMaker(opset=opset)
    x = m.input("x", 2, 5, 17, 20)
    x = m.conv(x, 5, 12, 3, stride=(2, 1), pads=[0, 2, 1, 0])
    x = m.node("Relu", x)
    w = m.constant(0.1 * m.rng.standard_normal((14, 12, 4, 3), np.float32))
    x = m.node("Conv", x, w, auto_pad="SAME_UPPER", strides=[1, 2])
    w = m.constant(0.1 * m.rng.standard_normal((14, 14, 2, 5), np.float32))
    x = m.node("Conv", x, w, auto_pad="SAME_LOWER", kernel_shape=[2, 5])
    x = m.conv(x, 14, 14, 3, groups=14)
    x = m.conv(x, 14, 16, 3, groups=2)
    x = m.conv(x, 16, 12, 1)
    x = m.conv(x, 12, 10, 3, dilation=(1, 2), pads=[1, 2, 1, 2], bias=False)
    w = m.constant(0.1 * m.rng.standard_normal((6, 10, 3, 3), np.float32))
    return m.model(m.node("Conv", x, w, auto_pad="VALID"))


def check_exact(model: onnx.ModelProto) -> edgeconv.Compression:
    done = edgeconv.compress(model, rank=99)
    feeds = edgeconv.compile(model, threads=1).random_inputs()
    assert_close(expected(done.model, feeds), expected(model, feeds), TOLERANCE)
    assert all(layer.rank == layer.full_rank for layer in done.layers)
    return done


def test_full_rank_reproduces_the_model() -> None:
    done = check_exact(every_kind())
    assert len(done.layers) == 5
    assert max(done.errors.values()) < TOLERANCE
    assert max(layer.error for layer in done.layers) < TOLERANCE
    assert {k.name: k.reason for k in done.kept} == {
        "Conv_4": "it is depthwise",
        "Conv_5": "it has 2 groups",
        "Conv_6": "it is 1×1",
    }


@pytest.mark.parametrize("spatial", [(15,), (4, 5, 6)])
def test_other_numbers_of_axes(spatial: tuple[int, ...]) -> None:
    m = ModelMaker()
    x, axes = m.input("x", 1, 6, *spatial), len(spatial)
    w = m.constant(m.rng.standard_normal((8, 6, *[3] * axes), np.float32))
    y = m.node("Conv", x, w, pads=[1] * axes + [0] * axes)
    check_exact(m.model(y))


def test_numbers_are_counted_not_claimed() -> None:
    done = edgeconv.compress(every_kind(), rank=2)
    assert done.macs_before == edgeconv.inspect(every_kind()).macs
    assert done.macs_after == edgeconv.inspect(done.model).macs
    saved = sum(layer.macs_before - layer.macs_after for layer in done.layers)
    assert done.macs_before - done.macs_after == saved
    assert done.parameters_after == edgeconv.inspect(done.model).parameters


def test_names_are_kept_and_unique() -> None:
    model = every_kind()
    shared = model.graph.node[2].input[1]
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones(3, np.float32), f"{shared}.depthwise")
    )
    model.graph.node.append(helper.make_node("Relu", [f"{shared}.depthwise"], ["other"], "other"))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [3]))
    done = edgeconv.compress(model, rank=3)
    graph = done.model.graph
    nodes = [n.name for n in graph.node]
    assert len(set(nodes)) == len(nodes)
    assert {n.name for n in model.graph.node} <= set(nodes)
    weights = [t.name for t in graph.initializer]
    assert len(set(weights)) == len(weights)
    read = {name for n in graph.node for name in n.input}
    assert set(weights) <= read  # the dense weights are gone
    assert [o.name for o in graph.output] == [o.name for o in model.graph.output]
    assert done.model.opset_import == model.opset_import
    onnx.checker.check_model(done.model, full_check=True)


def test_weights_used_twice_and_constant_nodes() -> None:
    m = ModelMaker()
    x = m.input("x", 1, 6, 9, 9)
    w = m.rng.standard_normal((6, 6, 3, 3), np.float32) * 0.1
    shared = m.constant(w)
    x = m.node("Conv", x, shared, pads=[1] * 4)
    x = m.node("Conv", x, shared, pads=[2] * 4, dilations=[2, 2])
    held = m.node("Constant", value=numpy_helper.from_array(w))
    x = m.node("Conv", x, held, pads=[1] * 4)
    done = check_exact(m.model(x))
    assert not any(n.op_type == "Constant" for n in done.model.graph.node)
    assert len(done.model.graph.initializer) == 6


def test_old_models_name_weights_as_inputs() -> None:
    model = every_kind(opset=8)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    done = check_exact(model)
    inputs = {i.name for i in done.model.graph.input}
    assert inputs == {"x", *(t.name for t in done.model.graph.initializer)}


def test_dynamic_inputs_stay_dynamic() -> None:
    m = ModelMaker()
    x = m.input("x", "N", 6, "H", "W")
    model = m.model(m.conv(x, 6, 12, 3))
    done = edgeconv.compress(model, rank=9, input_shapes={"x": (1, 6, 8, 9)})
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 6, 5, 7)).astype(np.float32)}
    assert_close(expected(done.model, feeds), expected(model, feeds), TOLERANCE)
    with pytest.raises(InputError, match="input_shapes"):
        edgeconv.compress(model, rank=9)


def network(seed: int = 3) -> onnx.ModelProto:
    """Kernels near rank two, a residual, a computed shape, batch 1, a pooled head."""
    m = ModelMaker(seed)

    def low(x: str, channels: int, outputs: int, kernel: int, stride: int = 1) -> str:
        rng, shape = m.rng, (outputs, channels, kernel, kernel)
        basis = rng.standard_normal((2, kernel * kernel))
        weight = (rng.standard_normal((outputs, channels, 2)) @ basis).reshape(shape)
        weight += 0.4 * rng.standard_normal(shape)
        weight /= np.sqrt(weight[0].size)
        weights = m.constant(weight.astype(np.float32)), m.constant(np.zeros(outputs, np.float32))
        y = m.node("Conv", x, *weights, pads=[kernel // 2] * 4, strides=[stride] * 2)
        return m.node("Relu", y)

    x = m.input("x", 1, 3, 20, 20)
    x = low(low(x, 3, 16, 3), 16, 24, 3, 2)
    y = low(low(x, 24, 24, 3), 24, 24, 5)
    x = m.node("Add", x, y)
    shape = m.node("Shape", x)
    x = m.node("Reshape", m.node("Relu", x), shape)
    x = low(x, 24, 32, 3)
    return m.model(m.node("GlobalAveragePool", x), m.node("Sigmoid", y))


def images(count: int, seed: int) -> np.ndarray:
    """Smooth noise, as images are."""
    x = np.random.default_rng(seed).standard_normal((count, 3, 22, 22)).astype(np.float32)
    return sum(x[:, :, i : i + 20, j : j + 20] for i in range(3) for j in range(3)) / 3


def error(model: onnx.ModelProto, changed: onnx.ModelProto, x: np.ndarray) -> float:
    """Relative error of the first output over several images."""
    pairs = [(expected(model, {"x": i[None]}), expected(changed, {"x": i[None]})) for i in x]
    name = model.graph.output[0].name
    wanted, found = (np.stack([p[k][name] for p in pairs]) for k in (0, 1))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_calibration_lowers_the_error_on_other_data() -> None:
    model = network()
    plain = edgeconv.compress(model, ratio=2.5)
    fitted = edgeconv.compress(model, ratio=2.5, calibration={"x": images(24, 0)})
    assert plain.ratio >= 2.5
    assert fitted.ratio >= 2.5
    others = images(8, 1)
    assert error(model, fitted.model, others) < 0.5 * error(model, plain.model, others)
    name = model.graph.output[0].name
    measured = error(model, fitted.model, images(24, 0))
    assert fitted.errors[name] == pytest.approx(measured, rel=1e-2)


def test_calibration_at_full_rank_changes_nothing() -> None:
    model = network()
    done = edgeconv.compress(model, rank=25, calibration={"x": images(4, 0)})
    assert max(done.errors.values()) < TOLERANCE
    x = images(1, 5)
    for name, wanted in expected(model, {"x": x}).items():
        assert relative_error(expected(done.model, {"x": x})[name], wanted) < TOLERANCE


def test_energy_is_kept_by_each_layer() -> None:
    done = edgeconv.compress(network(), energy=0.85, ratio=1.5)
    assert done.ratio >= 1.5
    assert all(layer.energy >= 0.85 for layer in done.layers)
    assert all(layer.macs_after < layer.macs_before for layer in done.layers)


def test_only_and_skip() -> None:
    done = edgeconv.compress(network(), rank=2, only=["Conv_*"], skip=["Conv_0", "Conv_12"])
    assert [layer.name for layer in done.layers] == ["Conv_2", "Conv_4", "Conv_6"]
    assert {k.name: k.reason for k in done.kept}["Conv_0"] == "skipped"
    with pytest.raises(EdgeconvError, match="no convolution is called 'stem'; there are: Conv_0,"):
        edgeconv.compress(network(), rank=2, skip=["stem"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "say how far to go"),
        ({"ratio": 1.0}, "above 1, not 1"),
        ({"ratio": float("nan")}, "above 1, not nan"),
        ({"ratio": 500}, "a ratio of 500 is out of reach"),
        ({"energy": 0.0}, "above 0 and up to 1, not 0"),
        ({"energy": 1.0}, "no layer gets cheaper while it keeps 1 of its energy"),
        ({"rank": 0}, "a rank is at least 1"),
        ({"rank": 1, "ratio": 2}, "a rank goes with neither"),
        ({"ratio": 2, "method": "tucker"}, "the only method is 'depthwise'"),
        ({"rank": 1, "calibration": {"y": images(1, 0)}}, "missing: x; unknown: y"),
        ({"rank": 1, "calibration": {"x": images(1, 0)[:, :2]}}, r"shape \[1, 2, 20, 20\]"),
        ({"rank": 1, "calibration": {"x": images(0, 0)}}, r"shape \[0, 3, 20, 20\]"),
        ({"rank": 1, "calibration": {"x": images(1, 0).astype("f8")}}, "is float64"),
        ({"rank": 1, "calibration": {"x": images(1, 0) * np.float32("inf")}}, "infinities"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeconvError, match=message):
        edgeconv.compress(network(), **arguments)


def test_nothing_to_decompose() -> None:
    m = ModelMaker()
    model = m.model(m.conv(m.input("x", 1, 8, 5, 5), 8, 8, 1))
    with pytest.raises(EdgeconvError, match=r"no dense convolution .*Conv_0: it is 1×1"):
        edgeconv.compress(model, ratio=2)
    with pytest.raises(ModelError, match="does not exist"):
        edgeconv.compress("nothing.onnx", ratio=2)


def test_other_reasons_to_stay() -> None:
    m = ModelMaker()
    x, w = m.input("x", 1, 8, 9, 9), m.input("w", 8, 8, 3, 3)
    x = m.node("Conv", x, w)
    weight = m.rng.standard_normal((8, 8, 3, 3), np.float32)
    q, scale = m.constant((weight * 20).astype(np.int8)), m.constant(np.float32(0.05))
    x = m.node("Conv", x, m.node("DequantizeLinear", q, scale))
    bad = weight.copy()
    bad[0, 0, 0, 0] = np.nan
    x = m.node("Conv", x, m.constant(bad))
    done = edgeconv.compress(m.model(m.conv(x, 8, 20, 3)), ratio=1.2)
    assert [k.reason for k in done.kept] == [
        "its weights come from an input",
        "its weights come from DequantizeLinear",
        "its weights hold infinities or NaN",
    ]


def test_external_data(tmp_path: Path) -> None:
    source, target = tmp_path / "net.onnx", tmp_path / "out" / "small.onnx"
    target.parent.mkdir()
    onnx.save(every_kind(), source, save_as_external_data=True, location="w.bin", size_threshold=0)
    done = edgeconv.compress(source, rank=2)
    assert done.external
    done.save(target)
    assert sorted(p.name for p in target.parent.iterdir()) == ["small.onnx", "small.onnx.data"]
    loaded = onnx.load(target, load_external_data=False)
    large = [t for t in loaded.graph.initializer if np.prod(t.dims) >= 256]
    assert large
    assert {t.data_location for t in large} == {TensorProto.EXTERNAL}
    feeds = edgeconv.compile(target, threads=1).random_inputs()
    assert_close(
        edgeconv.compile(target, threads=1).run(feeds), expected(done.model, feeds), TOLERANCE
    )
    with pytest.raises(EdgeconvError, match="it holds the source's weights"):
        done.save(tmp_path / "w.bin")


def test_saving_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    done = edgeconv.compress(network(), rank=2)
    done.save(tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    before = (tmp_path / "a.onnx").read_bytes()
    broken = onnx.ModelProto()
    broken.CopyFrom(done.model)
    broken.graph.node[0].op_type = "Nonsense"
    wrong = edgeconv.Compression(**{**vars(done), "model": broken})
    with pytest.raises(EdgeconvError, match="not valid ONNX"):
        wrong.save(tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == before
    with pytest.raises(EdgeconvError, match="can't write"):
        done.save(tmp_path / "missing" / "a.onnx")
