"""Checks what schemas cannot say: that the sizes of convolutions, pooling, … fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import onnx

from edgeconv.errors import ModelError
from edgeconv.importer.limits import Shape, node_label, subgraphs

_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Layer:
    """A node and the shapes of its inputs; a shape is None where it is not known."""

    label: str
    node: onnx.NodeProto
    shapes: list[Shape | None]

    def fail(self, reason: str) -> NoReturn:
        """Raises ModelError for this node."""
        raise ModelError(f"{self.label}: {reason}")

    def shape(self, index: int) -> Shape | None:
        """Shape of input `index`, None if left out or unknown."""
        return self.shapes[index] if index < len(self.shapes) else None

    def attribute(self, name: str) -> onnx.AttributeProto | None:
        """The attribute called `name`, if given."""
        return next((a for a in self.node.attribute if a.name == name), None)

    def integer(self, name: str, default: int) -> int:
        """An attribute of type INT."""
        found = self.attribute(name)
        return default if found is None else found.i

    def integers(self, name: str) -> list[int] | None:
        """An attribute of type INTS."""
        found = self.attribute(name)
        return None if found is None else list(found.ints)


def check_layers(
    graph: onnx.GraphProto, shapes: Mapping[str, Shape], *, inferred: bool = False
) -> None:
    """Checks every layer of `graph` and its subgraphs as far as shapes are known.

    Args:
        shapes: of values outside of `graph`.
        inferred: whether `value_info` comes from shape inference; that of a file may be stale.

    Raises:
        ModelError: naming the node and the sizes that do not fit.
    """
    known = {**shapes, **known_shapes(graph, inferred=inferred)}
    for index, node in enumerate(graph.node):
        check = _CHECKS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if check is not None:
            check(Layer(node_label(node, index), node, [known.get(name) for name in node.input]))
        for sub in subgraphs(node):
            check_layers(sub, known, inferred=inferred)


def known_shapes(graph: onnx.GraphProto, *, inferred: bool) -> dict[str, Shape]:
    """Shapes the graph itself states: of inputs, weights, constants, and all that is inferred."""
    shapes: dict[str, Shape] = {}
    for value in (*graph.input, *(graph.value_info if inferred else ())):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None
                for d in value.type.tensor_type.shape.dim
            )
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    shapes[node.output[0]] = tuple(attribute.t.dims)
    shapes.update((w.name, tuple(w.dims)) for w in graph.initializer)
    return shapes


def _convolution(layer: Layer) -> None:
    """Conv, ConvTranspose: weight OIHW (Conv) or IOHW (ConvTranspose), I or O per group."""
    data, weight = layer.shape(0), layer.shape(1)
    transposed = layer.node.op_type == "ConvTranspose"
    if weight is not None and len(weight) < 3:
        layer.fail(f"its weight has rank {len(weight)}; it needs at least 3: {_show(weight)}")
    if data is not None and len(data) < 3:
        layer.fail(f"its input has rank {len(data)}; it needs at least 3: {_show(data)}")
    if data is not None and weight is not None and len(data) != len(weight):
        layer.fail(
            f"its weight has rank {len(weight)}, but its input has rank {len(data)}: "
            f"{_show(weight)} and {_show(data)}"
        )
    if weight is not None and 0 in weight:
        layer.fail(f"its weight is empty: {_show(weight)}")
    spatial = next((len(s) - 2 for s in (data, weight) if s is not None), None)
    kernel = layer.integers("kernel_shape")
    if weight is not None and kernel is not None and not _agree(kernel, weight[2:]):
        layer.fail(f"kernel_shape is {kernel}, but its weight is {_show(weight)}")
    _window(layer, spatial, kernel or (None if weight is None else list(weight[2:])))
    _channels(layer, data, weight, transposed)


def _channels(layer: Layer, data: Shape | None, weight: Shape | None, transposed: bool) -> None:
    groups = layer.integer("group", 1)
    if weight is None:
        if data is not None and data[1] is not None and data[1] % groups:
            layer.fail(f"{groups} groups do not divide its {data[1]} input channels")
        return
    first, second = weight[0], weight[1]
    if first is not None and first % groups:
        side = "input" if transposed else "output"
        layer.fail(f"{groups} groups do not divide its {first} {side} channels")
    wanted = first if transposed else None if second is None else second * groups
    if data is not None and data[1] is not None and wanted is not None and data[1] != wanted:
        layer.fail(
            f"its input has {data[1]} channels, but its weight {_show(weight)} with "
            f"{groups} groups needs {wanted}"
        )
    out_channels = (None if second is None else second * groups) if transposed else first
    bias = layer.shape(2)
    if bias is not None and (len(bias) != 1 or not _agree(bias, (out_channels,))):
        layer.fail(f"its bias has shape {_show(bias)}, but it has {out_channels} output channels")


def _pool(layer: Layer) -> None:
    """MaxPool, AveragePool, LpPool: windows over NCHW, NCW, NCDHW."""
    data, kernel = layer.shape(0), layer.integers("kernel_shape")
    if data is not None and len(data) < 3:
        layer.fail(f"its input has rank {len(data)}; it needs at least 3: {_show(data)}")
    if not kernel:
        layer.fail("kernel_shape is missing")
    _window(layer, None if data is None else len(data) - 2, kernel)
    pads = layer.integers("pads") or []
    dilations = layer.integers("dilations") or [1] * len(kernel)
    for i, pad in enumerate(pads):
        extent = (kernel[i % len(kernel)] - 1) * dilations[i % len(kernel)] + 1
        if pad >= extent:
            layer.fail(f"pads {pads} must be smaller than the window {kernel}")


def _window(layer: Layer, spatial: int | None, kernel: list[int | None] | list[int] | None) -> None:
    """What convolutions and pooling share: kernel, strides, dilations, pads, size of the output."""
    if spatial is None and kernel is not None:
        spatial = len(kernel)
    strides, dilations = layer.integers("strides"), layer.integers("dilations")
    pads, adjust = layer.integers("pads"), layer.integers("output_padding")
    for name, values, each in (
        ("kernel_shape", kernel, 1),
        ("strides", strides, 1),
        ("dilations", dilations, 1),
        ("pads", pads, 2),
        ("output_padding", adjust, 1),
    ):
        if values is None:
            continue
        if spatial is not None and len(values) != spatial * each:
            layer.fail(f"{name} has {len(values)} values, but needs {spatial * each}: {values}")
        least = 0 if name in ("pads", "output_padding") else 1
        if any(v is not None and v < least for v in values):
            layer.fail(f"{name} is {values}; every value must be at least {least}")
    found = layer.attribute("auto_pad")
    auto_pad = "NOTSET" if found is None else found.s.decode(errors="replace")
    if auto_pad not in _AUTO_PADS:
        layer.fail(f"auto_pad is {auto_pad[:40]!r}; it must be one of {', '.join(_AUTO_PADS)}")
    if pads is not None and (auto_pad.startswith("SAME") or (auto_pad == "VALID" and any(pads))):
        layer.fail(f"auto_pad {auto_pad} and pads {pads} exclude each other; remove one")
    if spatial is None or kernel is None:
        return
    _output_size(
        layer,
        auto_pad,
        kernel,
        strides or [1] * spatial,
        dilations or [1] * spatial,
        pads or [0] * (2 * spatial),
        adjust or [0] * spatial,
    )


def _output_size(
    layer: Layer,
    auto_pad: str,
    kernel: list[int | None] | list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    adjust: list[int],
) -> None:
    """Every spatial size of the output is positive."""
    data = layer.shape(0)
    if data is None or auto_pad.startswith("SAME"):
        return
    spatial = len(kernel)
    if layer.node.op_type == "ConvTranspose" and layer.integers("output_shape") is not None:
        if any(size < 1 for size in layer.integers("output_shape") or []):
            layer.fail(f"output_shape {layer.integers('output_shape')} must be positive")
        return
    for i, size in enumerate(data[2:]):
        extent_of = kernel[i]
        if size is None or extent_of is None:
            continue
        extent = (extent_of - 1) * dilations[i] + 1
        padding = pads[i] + pads[i + spatial]
        if layer.node.op_type == "ConvTranspose":
            result = (size - 1) * strides[i] + adjust[i] + extent - padding
        elif layer.integer("ceil_mode", 0):
            result = -((extent - size - padding) // strides[i]) + 1
        else:
            result = (size + padding - extent) // strides[i] + 1
        if result < 1:
            layer.fail(
                f"its output would have size {result} on spatial axis {i}: input {_show(data)}, "
                f"kernel {list(kernel)}, strides {strides}, dilations {dilations}, pads {pads}"
            )


def _batch_norm(layer: Layer) -> None:
    data = layer.shape(0)
    if layer.integer("spatial", 1) == 0:
        return  # of opset 7 and 8; the importer says whether it is supported
    channels = data[1] if data is not None and len(data) > 1 else None
    for name, index in (("scale", 1), ("B", 2), ("mean", 3), ("var", 4)):
        shape = layer.shape(index)
        if shape is None:
            continue
        if len(shape) != 1 or not _agree(shape, (channels,)):
            layer.fail(f"{name} has shape {_show(shape)}, but its input has {channels} channels")
        channels = shape[0] if channels is None else channels


def _gemm(layer: Layer) -> None:
    a, b, c = layer.shape(0), layer.shape(1), layer.shape(2)
    for name, shape in (("A", a), ("B", b)):
        if shape is not None and len(shape) != 2:
            layer.fail(f"{name} has rank {len(shape)}, but needs 2: {_show(shape)}")
    rows, inner = (None, None) if a is None else a[::-1] if layer.integer("transA", 0) else a
    depth, columns = (None, None) if b is None else b[::-1] if layer.integer("transB", 0) else b
    if inner is not None and depth is not None and inner != depth:
        layer.fail(f"A and B differ in their common size: {inner} and {depth}")
    if c is not None:
        result = (rows, columns)[2 - len(c) :] if len(c) <= 2 else ()
        if len(c) > 2 or not all(
            have in (None, 1) or want is None or have == want
            for have, want in zip(c, result, strict=True)
        ):
            layer.fail(f"C of shape {_show(c)} does not broadcast to {_show((rows, columns))}")


def _agree(left: list[int] | Shape, right: Shape) -> bool:
    return len(left) == len(right) and all(
        a is None or b is None or a == b for a, b in zip(left, right, strict=True)
    )


def _show(shape: Shape) -> str:
    return "×".join("?" if size is None else str(size) for size in shape) or "scalar"


_CHECKS: dict[str, Callable[[Layer], None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
}
