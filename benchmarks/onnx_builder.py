"""Networks as ONNX, written with numpy: He-normal weights (He et al. 2015) from a seed, plausible
batch-norm statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13


class Builder:
    """Appends operators to one graph; every method takes and returns names of values."""

    def __init__(self, name: str, input_shape: Sequence[int], seed: int = 0) -> None:
        self.name, self.rng = name, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, list(input_shape))

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Any operator of one output."""
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """A weight or any other constant."""
        name = f"constant{len(self.tensors)}"
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.tensors.append(numpy_helper.from_array(stored, name))
        return name

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] | None = None,
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """Convolution; padding (top, left, bottom, right), by default the input's size is kept."""
        shape = (outputs, inputs // groups, *kernel)
        weight = self.rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        operands = [x, self.constant(weight)]
        if bias:
            operands.append(self.constant(self.rng.uniform(-0.1, 0.1, outputs)))
        if padding is None:
            top, left = (d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
            padding = (top, left, top, left)
        return self.node(
            "Conv",
            operands,
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=list(padding),
            dilations=list(dilation),
            group=groups,
        )

    def batch_norm(self, x: str, channels: int) -> str:
        """Batch norm in inference."""
        ranges = ((0.75, 1.25), (-0.2, 0.2), (-0.2, 0.2), (0.75, 1.25))
        values = [self.constant(self.rng.uniform(a, b, channels)) for a, b in ranges]
        return self.node("BatchNormalization", [x, *values])

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", [x])

    def relu6(self, x: str) -> str:
        """x cut to 0 … 6."""
        bounds = [self.constant(np.array(v, np.float32)) for v in (0.0, 6.0)]
        return self.node("Clip", [x, *bounds])

    def conv_bn(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: str = "relu",
    ) -> str:
        """Square convolution without bias, batch norm, activation ("relu", "relu6" or "")."""
        square, strides = (kernel, kernel), (stride, stride)
        x = self.conv(x, inputs, outputs, square, stride=strides, groups=groups, bias=False)
        x = self.batch_norm(x, outputs)
        return {"relu": self.relu, "relu6": self.relu6, "": lambda y: y}[activation](x)

    def max_pool(self, x: str, kernel: int, stride: int, padding: int) -> str:
        """Square max pooling."""
        return self._pool("MaxPool", x, kernel, stride, padding)

    def average_pool(self, x: str, kernel: int, stride: int, padding: int) -> str:
        """Square mean pooling; padding zeros count."""
        return self._pool("AveragePool", x, kernel, stride, padding, count_include_pad=1)

    def classifier(self, x: str, channels: int, classes: int = 1000) -> str:
        """Global average and one linear layer."""
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        weight = self.rng.standard_normal((classes, channels)) * np.sqrt(1 / channels)
        bias = self.rng.uniform(-0.1, 0.1, classes)
        return self.node("Gemm", [x, self.constant(weight), self.constant(bias)], transB=1)

    def model(self, output: str) -> onnx.ModelProto:
        """The checked model, with all shapes inferred."""
        result = helper.make_empty_tensor_value_info(output)  # inference fills it in
        graph = helper.make_graph(self.nodes, self.name, [self.input], [result], self.tensors)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=8,
            producer_name="edgeconv.benchmarks",
        )
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(inferred)
        return inferred

    def _pool(
        self, op: str, x: str, kernel: int, stride: int, padding: int, **attributes: int
    ) -> str:
        return self.node(
            op,
            [x],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[padding] * 4,
            **attributes,
        )
