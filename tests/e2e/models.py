"""ONNX models made from Python, and what ONNX Runtime and NumPy make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv import targets

OPSET = 17
IR_VERSION = 8


class ModelMaker:
    """Collects nodes and weights; every method returns the name of a tensor.

    Weights are standard normal, scaled to keep activations near one.
    """

    def __init__(self, seed: int = 0, opset: int = OPSET) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> str:
        """A graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, array: Any) -> str:
        """An initialiser."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        """A node; its output's name, or a list of names for several."""
        number = len(self.nodes)
        names = [f"{op.lower()}{number}" + f"_{i}" * (outputs > 1) for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{number}", **attrs))
        return names[0] if outputs == 1 else names

    def conv(
        self,
        x: str,
        channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 3,
        *,
        pads: Sequence[int] | None = None,
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """A 2-D convolution; default padding keeps the size at stride 1."""
        r, s = kernel = pair(kernel)
        weight = he_normal(self.rng, (out_channels, channels // groups, r, s))
        operands = [x, self.constant(weight)]
        if bias:
            operands.append(self.constant(self.rng.standard_normal(out_channels, np.float32)))
        default = [r // 2, s // 2, (r - 1) // 2, (s - 1) // 2]
        return self.node(
            "Conv",
            *operands,
            kernel_shape=kernel,
            strides=pair(stride),
            dilations=pair(dilation),
            pads=list(default if pads is None else pads),
            group=groups,
        )

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The checked model with these outputs."""
        infos = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        onnx.checker.check_model(made)
        return made


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """(vertical, horizontal)."""
    return (value, value) if isinstance(value, int) else value


def he_normal(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Normal weights that keep the size of activations: deviation sqrt(2 / fan-in)."""
    deviation = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
    return rng.normal(0, deviation, shape).astype(np.float32)


def onnx_runtime(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session on one thread, without its optimisations: some make legal models illegal."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def expected(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs by name."""
    session = onnx_runtime(model)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def relative_error(actual: np.ndarray, wanted: np.ndarray, floor: float = 0) -> float:
    """Largest difference over the largest magnitude; infinite where shape, type or NaNs differ.

    `floor` is the size results have by nature: a lone result near zero is the difference of large
    numbers, and its error is theirs.
    """
    if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
        return float("inf")
    if not np.array_equal(np.isfinite(actual), np.isfinite(wanted)):
        return float("inf")
    if not wanted.size:
        return 0.0
    difference = np.abs(actual.astype(np.float64) - wanted)
    return float(difference.max() / max(np.abs(wanted.astype(np.float64)).max(), floor, 1e-30))


def assert_close(
    actual: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    tolerance: float,
    floor: float = 0,
) -> None:
    """Every output within `tolerance` of its max-norm (of at least `floor`)."""
    assert actual.keys() == wanted.keys()
    errors = {name: relative_error(actual[name], wanted[name], floor) for name in wanted}
    assert max(errors.values()) <= tolerance, errors


def native(name: str) -> targets.Device:
    """A named device; skips the test if its code can't run here."""
    found = targets.load(name)
    if not found.is_native:
        pytest.skip(f"this machine can't run code for {name}")
    return found


def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """A grouped convolution in float64, by its definition; padding is top, left, bottom, right."""
    top, left, bottom, right = padding
    k, cpg, r, s = weight.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, _, height, width = padded.shape
    oh = (height - dilation[0] * (r - 1) - 1) // stride[0] + 1
    ow = (width - dilation[1] * (s - 1) - 1) // stride[1] + 1
    out = np.zeros((n, k, oh, ow))
    kpg = k // groups
    for group in range(groups):
        channels = padded[:, group * cpg : (group + 1) * cpg]
        filters = weight[group * kpg : (group + 1) * kpg].astype(np.float64)
        for kh in range(r):
            for kw in range(s):
                y, z = kh * dilation[0], kw * dilation[1]
                taps = channels[
                    :,
                    :,
                    y : y + (oh - 1) * stride[0] + 1 : stride[0],
                    z : z + (ow - 1) * stride[1] + 1 : stride[1],
                ]
                out[:, group * kpg : (group + 1) * kpg] += np.einsum(
                    "nchw,kc->nkhw", taps, filters[:, :, kh, kw]
                )
    return out
