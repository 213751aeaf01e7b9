"""ONNX to a TFLite flatbuffer without TensorFlow, by the schema that ships with the runtime.

Activations of rank 4 are NHWC inside and at the borders of the network. Three facts that the schema
does not tell: grouped CONV_2D is operator version 6, dilated depthwise version 2, and buffers must
lie at multiples of 16 bytes, which the generated Python packer forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeconv.benchmarks.peers.base import Unsupported
from edgeconv.benchmarks.peers.onnx_graph import Node, OnnxGraph, window

_ALIGNMENT = 16
_ACTIVATION = schema.ActivationFunctionType
_OPERATOR = schema.BuiltinOperator
_OPTIONS = schema.BuiltinOptions
_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}
MOST_CONCATENATED = 4  # XNNPACK leaves wider concatenations to TFLite
_NHWC = (0, 2, 3, 1)


class _AlignedBuffer(schema.BufferT):
    """A buffer packed at the alignment the schema demands."""

    def Pack(self, builder: Any) -> Any:  # the name that flatbuffers calls
        start = None
        if self.data is not None:
            count = len(self.data)
            builder.StartVector(1, count, _ALIGNMENT)
            builder.head = builder.head - count
            builder.Bytes[builder.head : builder.head + count] = self.data
            start = builder.EndVector()
        schema.BufferStart(builder)
        if start is not None:
            schema.BufferAddData(builder, start)
        return schema.BufferEnd(builder)


def convert(path: Path) -> bytes:
    """The network as the contents of a .tflite file.

    Raises:
        Unsupported: an operator, or a form of it, has no translation here.
    """
    return _Writer(OnnxGraph(path)).write()


def _stored(shape: tuple[int, ...]) -> list[int]:
    """Shape of a value as TFLite stores it."""
    return [shape[i] for i in _NHWC] if len(shape) == 4 else list(shape)


class _Writer:
    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [_AlignedBuffer()]  # number 0 means "no data"
        self.operators: list[Any] = []
        self.codes: dict[tuple[int, int], int] = {}
        self.numbers: dict[str, int] = {}  # tensor of each ONNX value
        self.swallowed: set[str] = set()  # outputs of nodes that another node has absorbed

    def write(self) -> bytes:
        inputs = [self.output(name) for name in self.graph.inputs]
        for node in self.graph.nodes:
            if node.output in self.swallowed:
                continue
            emit = _EMITTERS.get(node.op)
            if emit is None:
                raise Unsupported(f"no TFLite form of {node.op}")
            emit(self, node)
        return self._pack(inputs, [self.numbers[name] for name in self.graph.outputs])

    def tensor(self, shape: list[int], data: np.ndarray | None = None, name: str = "") -> int:
        """A new tensor, with constant contents or without; its number."""
        t = schema.TensorT()
        t.shape, t.hasRank = [int(d) for d in shape], True
        t.type = _TYPES["float32" if data is None else str(data.dtype)]
        t.name = name or f"t{len(self.tensors)}"
        if data is not None:
            buffer = _AlignedBuffer()
            buffer.data = np.ascontiguousarray(data).tobytes()
            self.buffers.append(buffer)
            t.buffer = len(self.buffers) - 1
        self.tensors.append(t)
        return len(self.tensors) - 1

    def floats(self, array: np.ndarray) -> int:
        """A float32 constant."""
        return self.tensor(list(array.shape), array.astype(np.float32))

    def integers(self, values: Any) -> int:
        """An int32 constant."""
        array = np.array(values, np.int32)
        return self.tensor(list(array.shape), array)

    def output(self, name: str) -> int:
        """The tensor of an ONNX value that is about to be written."""
        self.numbers[name] = self.tensor(_stored(self.graph.shapes[name]), name=name)
        return self.numbers[name]

    def operand(self, node: Node, position: int = 0) -> int:
        """The tensor of an operand; constants are stored on first use."""
        name = node.inputs[position]
        if name not in self.numbers:
            value = self.graph.constants[name]
            while value.ndim > 1 and value.shape[0] == 1 and value.ndim != 4:
                value = value[0]
            stored = value.transpose(_NHWC) if value.ndim == 4 else value
            self.numbers[name] = self.floats(stored)
        return self.numbers[name]

    def operator(
        self,
        code: int,
        inputs: list[int],
        output: int,
        options: Any = None,
        version: int = 1,
    ) -> None:
        """Append one operator; its options' type follows from their class."""
        o = schema.OperatorT()
        o.opcodeIndex = self.codes.setdefault((code, version), len(self.codes))
        o.inputs, o.outputs = inputs, [output]
        if options is not None:
            o.builtinOptionsType = getattr(_OPTIONS, type(options).__name__.removesuffix("T"))
            o.builtinOptions = options
        self.operators.append(o)

    def absorb_activation(self, node: Node) -> tuple[int, str]:
        """The activation that rides in `node`, and the value then produced."""
        after = self.graph.only_reader(node.output)
        kind = _ACTIVATION.NONE
        if after is not None and after.op == "Relu":
            kind = _ACTIVATION.RELU
        elif after is not None and after.op == "Clip":
            if self.graph.clip_range(after) == (0.0, 6.0):
                kind = _ACTIVATION.RELU6
        if after is None or kind == _ACTIVATION.NONE:
            return _ACTIVATION.NONE, node.output
        self.swallowed.add(after.output)
        return kind, after.output

    def padded(self, operand: int, pads: tuple[int, ...]) -> int:
        """The operand with zeros around its maps."""
        n, h, w, c = self.tensors[operand].shape
        top, left, bottom, right = pads
        wider = self.tensor([n, h + top + bottom, w + left + right, c])
        amounts = self.integers([[0, 0], [top, bottom], [left, right], [0, 0]])
        self.operator(_OPERATOR.PAD, [operand, amounts], wider, schema.PadOptionsT())
        return wider

    def reshaped(self, operand: int, shape: list[int], into: int) -> None:
        """`into` becomes the operand in another shape."""
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        self.operator(_OPERATOR.RESHAPE, [operand, self.integers(shape)], into, options)

    def concatenated(self, operands: list[int], options: Any) -> int:
        """A new tensor: the operands one after another."""
        shape = list(self.tensors[operands[0]].shape)
        shape[options.axis] = sum(self.tensors[x].shape[options.axis] for x in operands)
        into = self.tensor(shape)
        self.operator(_OPERATOR.CONCATENATION, operands, into, options)
        return into

    def transposed(self, operand: int, axes: list[int], into: int) -> None:
        """`into` becomes the operand with its axes in another order."""
        inputs = [operand, self.integers(axes)]
        self.operator(_OPERATOR.TRANSPOSE, inputs, into, schema.TransposeOptionsT())

    def _pack(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "main"
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.description, model.operatorCodes = "edgeconv", []
        for code, version in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, version
            entry.deprecatedBuiltinCode = min(code, 127)
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _same_padding(
    sizes: list[int], kernel: list[int], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    """(top, left, bottom, right) of TensorFlow's SAME."""
    pairs = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        pairs.append((total // 2, total - total // 2))
    return (pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1])


def _conv(w: _Writer, node: Node) -> None:
    weight, bias = w.graph.required(node, 1), w.graph.constant(node, 2)
    if weight.ndim != 4:
        raise Unsupported(f"{weight.ndim - 2}-D convolution")
    outputs, _, *kernel = weight.shape
    strides, pads, dilations = window(node, tuple(kernel))
    groups, x = node.attributes.get("group", 1), w.operand(node)
    _, height, width, channels = w.tensors[x].shape
    padding = schema.Padding.VALID
    if any(pads) and pads == _same_padding([height, width], kernel, strides, dilations):
        padding = schema.Padding.SAME
    elif any(pads):
        x = w.padded(x, pads)
    depthwise = groups == channels and outputs % groups == 0 and groups > 1
    options: Any
    if depthwise:
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = outputs // channels
        stored = weight[:, 0].transpose(1, 2, 0)[None]
        code, version = _OPERATOR.DEPTHWISE_CONV_2D, 2 if max(dilations) > 1 else 1
    else:
        options = schema.Conv2DOptionsT()
        stored = weight.transpose(0, 2, 3, 1)
        code, version = _OPERATOR.CONV_2D, 6 if groups > 1 else 1
    options.padding = padding
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    options.fusedActivationFunction, produced = w.absorb_activation(node)
    constant = np.zeros(outputs, np.float32) if bias is None else bias
    w.operator(
        code, [x, w.floats(stored), w.floats(constant)], w.output(produced), options, version
    )


def _gemm(w: _Writer, node: Node) -> None:
    weight, bias = w.graph.gemm(node)
    constant = np.zeros(len(weight), np.float32) if bias is None else bias.reshape(-1)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction, produced = w.absorb_activation(node)
    inputs = [w.operand(node), w.floats(weight), w.floats(constant)]
    w.operator(_OPERATOR.FULLY_CONNECTED, inputs, w.output(produced), options)


def _add(w: _Writer, node: Node) -> None:
    if len(node.inputs) != 2:
        raise Unsupported(f"Sum of {len(node.inputs)}")
    options = schema.AddOptionsT()
    options.fusedActivationFunction, produced = w.absorb_activation(node)
    inputs = [w.operand(node, 0), w.operand(node, 1)]
    w.operator(_OPERATOR.ADD, inputs, w.output(produced), options)


def _multiply(w: _Writer, node: Node) -> None:
    options = schema.MulOptionsT()
    options.fusedActivationFunction, produced = w.absorb_activation(node)
    inputs = [w.operand(node, 0), w.operand(node, 1)]
    w.operator(_OPERATOR.MUL, inputs, w.output(produced), options)


def _batch_norm(w: _Writer, node: Node) -> None:
    scale, shift = w.graph.batch_norm_scale_shift(node)
    scaled = w.tensor(_stored(w.graph.shapes[node.output]))
    w.operator(_OPERATOR.MUL, [w.operand(node), w.floats(scale)], scaled, schema.MulOptionsT())
    options = schema.AddOptionsT()
    options.fusedActivationFunction, produced = w.absorb_activation(node)
    w.operator(_OPERATOR.ADD, [scaled, w.floats(shift)], w.output(produced), options)


def _activation(w: _Writer, node: Node) -> None:
    codes = {
        "Relu": _OPERATOR.RELU,
        "Sigmoid": _OPERATOR.LOGISTIC,
        "HardSwish": _OPERATOR.HARD_SWISH,
        "Clip": _OPERATOR.RELU6,
    }
    if node.op == "Clip" and w.graph.clip_range(node) != (0.0, 6.0):
        raise Unsupported("Clip to anything but 0 to 6")
    w.operator(codes[node.op], [w.operand(node)], w.output(node.output))


def _softmax(w: _Writer, node: Node) -> None:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    w.operator(_OPERATOR.SOFTMAX, [w.operand(node)], w.output(node.output), options)


def _pool(w: _Writer, node: Node) -> None:
    kernel = tuple(node.attributes["kernel_shape"])
    strides, pads, dilations = window(node, kernel)
    if max(dilations) > 1 or node.attributes.get("ceil_mode", 0):
        raise Unsupported(f"{node.op} with dilation or ceil_mode")
    x, largest = w.operand(node), node.op == "MaxPool"
    if any(pads):
        before = w.graph.producer(node.inputs[0])
        if largest and (before is None or before.op not in ("Relu", "Clip")):
            raise Unsupported("MaxPool with padding of values that may be negative")
        if not largest and not node.attributes.get("count_include_pad", 0):
            raise Unsupported("AveragePool that leaves its padding out of the mean")
        x = w.padded(x, pads)
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = strides
    options.filterHeight, options.filterWidth = kernel
    code = _OPERATOR.MAX_POOL_2D if largest else _OPERATOR.AVERAGE_POOL_2D
    w.operator(code, [x], w.output(node.output), options)


def _mean(w: _Writer, node: Node) -> None:
    keep = node.op == "GlobalAveragePool" or bool(node.attributes.get("keepdims", 1))
    if node.op == "ReduceMean":
        axes = node.attributes.get("axes", w.graph.constant(node, 1))
        if axes is None or sorted(int(a) % 4 for a in axes) != [2, 3]:
            raise Unsupported("ReduceMean over other axes than height and width")
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    inputs = [w.operand(node), w.integers([1, 2])]
    w.operator(_OPERATOR.MEAN, inputs, w.output(node.output), options)


def _concat(w: _Writer, node: Node) -> None:
    options = schema.ConcatenationOptionsT()
    rank = len(w.graph.shapes[node.output])
    axis = node.attributes["axis"] % rank
    options.axis = _NHWC.index(axis) if rank == 4 else axis
    inputs = [w.operand(node, i) for i in range(len(node.inputs))]
    while len(inputs) > MOST_CONCATENATED:  # pairs of neighbours, and so on
        runs = [inputs[i : i + MOST_CONCATENATED] for i in range(0, len(inputs), MOST_CONCATENATED)]
        inputs = [run[0] if len(run) == 1 else w.concatenated(run, options) for run in runs]
    w.operator(_OPERATOR.CONCATENATION, inputs, w.output(node.output), options)


def _slice(w: _Writer, node: Node) -> None:
    limits = [w.graph.required(node, i).reshape(-1) for i in range(1, len(node.inputs))]
    source, shape = w.graph.shapes[node.inputs[0]], w.graph.shapes[node.output]
    steps = limits[3] if len(limits) > 3 else np.ones(len(limits[0]), np.int64)
    axes = limits[2] if len(limits) > 2 else np.arange(len(limits[0]))
    if len(source) != 4 or (steps != 1).any():
        raise Unsupported("Slice with steps, or not of images")
    begin = [0, 0, 0, 0]
    for axis, first in zip(axes, limits[0], strict=True):
        size = source[axis]
        begin[axis] = int(min(first + size if first < 0 else first, size))
    place = [w.integers([values[axis] for axis in _NHWC]) for values in (begin, shape)]
    inputs = [w.operand(node), *place]
    w.operator(_OPERATOR.SLICE, inputs, w.output(node.output), schema.SliceOptionsT())


def _reshape(w: _Writer, node: Node) -> None:
    shape = w.graph.shapes[node.output]
    if len(shape) == 5:
        return _channel_shuffle(w, node)
    source = w.graph.shapes[node.inputs[0]]
    if len(shape) == 4 and (len(source) == 4 or shape[2:] != (1, 1)):
        if shape[2:] != (1, 1) or source[2:] != (1, 1):
            raise Unsupported(f"Reshape of {source} to {shape}")
    x = w.operand(node)
    if len(source) == 4 and max(source[2:]) > 1:  # row-major order is that of NCHW
        plain = w.tensor(list(source))
        w.transposed(x, [0, 3, 1, 2], plain)
        x = plain
    w.reshaped(x, _stored(shape), w.output(node.output))
    return None


def _channel_shuffle(w: _Writer, node: Node) -> None:
    """Reshape, Transpose, Reshape over [N, G, C/G, H, W]."""
    transpose = w.graph.only_reader(node.output)
    last = w.graph.only_reader(transpose.output) if transpose is not None else None
    shape = w.graph.shapes[node.inputs[0]]
    if (
        transpose is None
        or last is None
        or (transpose.op, last.op) != ("Transpose", "Reshape")
        or list(transpose.attributes["perm"]) != [0, 2, 1, 3, 4]
        or w.graph.shapes[last.output] != shape
    ):
        raise Unsupported("Reshape to rank 5 that is no channel shuffle")
    n, channels, height, width = shape
    groups = w.graph.shapes[node.output][1]
    grouped = [n, height * width, groups, channels // groups]
    swapped = [n, height * width, channels // groups, groups]
    before, after = w.tensor(grouped), w.tensor(swapped)
    w.reshaped(w.operand(node), grouped, before)
    w.transposed(before, [0, 1, 3, 2], after)
    w.reshaped(after, [n, height, width, channels], w.output(last.output))
    w.swallowed |= {transpose.output, last.output}


_EMITTERS: dict[str, Callable[[_Writer, Node], None]] = {
    "Add": _add,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _activation,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _mean,
    "HardSwish": _activation,
    "MaxPool": _pool,
    "Mul": _multiply,
    "ReduceMean": _mean,
    "Relu": _activation,
    "Reshape": _reshape,
    "Sigmoid": _activation,
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _reshape,
    "Sum": _add,
}
