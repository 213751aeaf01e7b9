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

    def __init__(
        self, name: str, input_shape: Sequence[int], seed: int = 0, opset: int = OPSET
    ) -> None:
        self.name, self.rng, self.opset = name, np.random.default_rng(seed), opset
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
        *,
        padding: tuple[int, int, int, int] | None = None,
        dilation: int = 1,
    ) -> str:
        """Square convolution without bias, batch norm, activation: "relu", "relu6", "leaky",
        "hardswish" (opset 14) or "".
        """
        x = self.conv(
            x,
            inputs,
            outputs,
            (kernel, kernel),
            stride=(stride, stride),
            padding=padding,
            dilation=(dilation, dilation),
            groups=groups,
            bias=False,
        )
        return self.activation(self.batch_norm(x, outputs), activation)

    def activation(self, x: str, name: str) -> str:
        """The activation that `conv_bn` calls so."""
        if name == "relu6":
            return self.relu6(x)
        if name == "leaky":
            return self.node("LeakyRelu", [x], alpha=0.1)
        return self.node({"relu": "Relu", "hardswish": "HardSwish"}[name], [x]) if name else x

    def squeeze_excite(self, x: str, channels: int, squeezed: int, *, hard: bool = False) -> str:
        """x times a gate for each channel (Hu et al. 2018); `hard`: MobileNetV3's sigmoid."""
        y = self.node("GlobalAveragePool", [x])
        y = self.relu(self.conv(y, channels, squeezed, (1, 1)))
        y = self.conv(y, squeezed, channels, (1, 1))
        if hard:
            y = self.node("HardSigmoid", [y], alpha=1 / 6, beta=0.5)
        else:
            y = self.node("Sigmoid", [y])
        return self.node("Mul", [x, y])

    def shuffle(self, x: str, channels: int, groups: int, height: int, width: int) -> str:
        """Channels of all groups interleaved, as frameworks export it."""
        shapes = ([1, groups, channels // groups, height, width], [1, channels, height, width])
        grouped, whole = (self.constant(np.array(shape, np.int64)) for shape in shapes)
        x = self.node("Reshape", [x, grouped])
        x = self.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", [x, whole])

    def slice_channels(self, x: str, start: int, end: int) -> str:
        """Channels start … end − 1."""
        bounds = [self.constant(np.array([v], np.int64)) for v in (start, end, 1)]
        return self.node("Slice", [x, *bounds])

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """Linear layer with bias on [1, inputs]."""
        weight = self.rng.standard_normal((outputs, inputs)) * np.sqrt(1 / inputs)
        bias = self.rng.uniform(-0.1, 0.1, outputs)
        return self.node("Gemm", [x, self.constant(weight), self.constant(bias)], transB=1)

    def max_pool(self, x: str, kernel: int, stride: int, padding: int) -> str:
        """Square max pooling."""
        return self._pool("MaxPool", x, kernel, stride, padding)

    def average_pool(self, x: str, kernel: int, stride: int, padding: int) -> str:
        """Square mean pooling; padding zeros count."""
        return self._pool("AveragePool", x, kernel, stride, padding, count_include_pad=1)

    def classifier(self, x: str, channels: int, classes: int = 1000) -> str:
        """Global average and one linear layer."""
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        return self.linear(x, channels, classes)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The checked model, with all shapes inferred."""
        results = [helper.make_empty_tensor_value_info(o) for o in outputs]  # inferred below
        graph = helper.make_graph(self.nodes, self.name, [self.input], results, self.tensors)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
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
