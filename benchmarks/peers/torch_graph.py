"""An ONNX network as a PyTorch module: straight-line code over `nn.Conv2d` and the functional API.

The module is traced code (`torch.fx`), not an interpreter, so eager calls cost what a hand-written
module's cost, and the compilers of PyTorch take it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from edgeconv.benchmarks.peers.base import Unsupported
from edgeconv.benchmarks.peers.onnx_graph import Node, OnnxGraph, window


def to_torch(path: Path) -> fx.GraphModule:
    """The network in inference mode; positional inputs and outputs in the model's order.

    Raises:
        Unsupported: an operator has no row in the table below.
    """
    return _Converter(OnnxGraph(path)).module()


class _Converter:
    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.root = nn.Module()
        self.code = fx.Graph()
        self.values: dict[str, Any] = {
            name: self.code.placeholder(f"input{i}") for i, name in enumerate(graph.inputs)
        }

    def module(self) -> fx.GraphModule:
        """Convert all nodes in order."""
        for node in self.graph.nodes:
            emit = _EMITTERS.get(node.op)
            if emit is None:
                raise Unsupported(f"no PyTorch form of {node.op}")
            self.values[node.output] = emit(self, node)
        found = [self.value(name) for name in self.graph.outputs]
        self.code.output(found[0] if len(found) == 1 else tuple(found))
        return fx.GraphModule(self.root, self.code).eval()

    def value(self, name: str) -> Any:
        """The value called `name`; constants become buffers."""
        if name not in self.values:
            self.values[name] = self.buffer(self.graph.constants[name])
        return self.values[name]

    def operand(self, node: Node, position: int = 0) -> Any:
        """An operand as a value."""
        return self.value(node.inputs[position])

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One call in the generated code."""
        return self.code.call_function(function, args, kwargs)

    def layer(self, module: nn.Module, operand: Any) -> Any:
        """Call of a submodule with weights of its own."""
        name = f"layer{len(list(self.root.children()))}"
        self.root.add_module(name, module)
        return self.code.call_module(name, (operand,))

    def buffer(self, array: np.ndarray) -> Any:
        """A constant of the network."""
        name = f"constant{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, _tensor(array))
        return self.code.get_attr(name)

    def may_overwrite(self, node: Node) -> bool:
        """Nobody else reads the first operand, so an activation may work in place."""
        name = node.inputs[0]
        before = self.graph.producer(name)
        fresh = before is not None and before.op not in ("Reshape", "Transpose", "Flatten")
        return fresh and self.graph.only_reader(name) is node


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _padded(c: _Converter, operand: Any, pads: tuple[int, ...], value: float = 0.0) -> Any:
    top, left, bottom, right = pads
    return c.apply(functional.pad, operand, (left, right, top, bottom), "constant", value)


def _conv(c: _Converter, node: Node) -> Any:
    weight, bias = c.graph.required(node, 1), c.graph.constant(node, 2)
    if weight.ndim != 4:
        raise Unsupported(f"{weight.ndim - 2}-D convolution")
    kernel = weight.shape[2:]
    strides, pads, dilations = window(node, kernel)
    x, groups = c.operand(node), node.attributes.get("group", 1)
    symmetric = pads[:2] == pads[2:]
    if not symmetric:
        x = _padded(c, x, pads)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        strides,
        pads[:2] if symmetric else 0,
        dilations,
        groups,
        bias is not None,
    )
    with torch.no_grad():
        layer.weight.copy_(_tensor(weight))
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(_tensor(bias))
    return c.layer(layer, x)


def _gemm(c: _Converter, node: Node) -> Any:
    weight, bias = c.graph.gemm(node)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    with torch.no_grad():
        layer.weight.copy_(_tensor(weight))
        if bias is not None:
            layer.bias.copy_(_tensor(np.broadcast_to(bias.reshape(-1), weight.shape[:1])))
    return c.layer(layer, c.operand(node))


def _batch_norm(c: _Converter, node: Node) -> Any:
    scale, shift = c.graph.batch_norm_scale_shift(node)
    layer = nn.BatchNorm2d(len(scale), eps=0.0)
    with torch.no_grad():
        layer.weight.copy_(_tensor(scale))
        layer.bias.copy_(_tensor(shift))
    return c.layer(layer, c.operand(node))


def _relu(c: _Converter, node: Node) -> Any:
    function = torch.relu_ if c.may_overwrite(node) else torch.relu
    return c.apply(function, c.operand(node))


def _clip(c: _Converter, node: Node) -> Any:
    low, high = c.graph.clip_range(node)
    function = torch.clamp_ if c.may_overwrite(node) else torch.clamp
    return c.apply(function, c.operand(node), low, high)


def _pool(c: _Converter, node: Node) -> Any:
    kernel = tuple(node.attributes["kernel_shape"])
    strides, pads, dilations = window(node, kernel)
    ceil = bool(node.attributes.get("ceil_mode", 0))
    x, largest = c.operand(node), node.op == "MaxPool"
    counted = bool(node.attributes.get("count_include_pad", 0))
    if pads[:2] != pads[2:]:
        if not largest and not counted:
            raise Unsupported("AveragePool with uneven, uncounted padding")
        x = _padded(c, x, pads, float("-inf") if largest else 0.0)
        pads = (0, 0, 0, 0)
    if largest:
        return c.apply(functional.max_pool2d, x, kernel, strides, pads[:2], dilations, ceil)
    return c.apply(functional.avg_pool2d, x, kernel, strides, pads[:2], ceil, counted)


def _mean(c: _Converter, node: Node) -> Any:
    axes = node.attributes.get("axes", c.graph.constant(node, 1))
    if axes is None:
        raise Unsupported("ReduceMean over all axes")
    keep = bool(node.attributes.get("keepdims", 1))
    return c.apply(torch.mean, c.operand(node), tuple(int(a) for a in axes), keep)


def _reshape(c: _Converter, node: Node) -> Any:
    return c.apply(torch.reshape, c.operand(node), tuple(c.graph.shapes[node.output]))


def _transpose(c: _Converter, node: Node) -> Any:
    return c.apply(torch.permute, c.operand(node), tuple(node.attributes["perm"]))


def _concat(c: _Converter, node: Node) -> Any:
    return c.apply(torch.cat, [c.value(i) for i in node.inputs], node.attributes["axis"])


def _sum(c: _Converter, node: Node) -> Any:
    total = c.operand(node)
    for name in node.inputs[1:]:
        total = c.apply(torch.add, total, c.value(name))
    return total


def _lrn(c: _Converter, node: Node) -> Any:
    a = node.attributes
    alpha, beta, bias = a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)
    return c.apply(functional.local_response_norm, c.operand(node), a["size"], alpha, beta, bias)


def _softmax(c: _Converter, node: Node) -> Any:
    return c.apply(torch.softmax, c.operand(node), node.attributes.get("axis", -1))


def _unary(function: Callable[..., Any]) -> Callable[[_Converter, Node], Any]:
    return lambda c, node: c.apply(function, c.operand(node))


def _global_mean(c: _Converter, node: Node) -> Any:
    return c.apply(torch.mean, c.operand(node), (2, 3), True)


def _multiply(c: _Converter, node: Node) -> Any:
    return c.apply(torch.mul, c.operand(node), c.operand(node, 1))


_EMITTERS: dict[str, Callable[[_Converter, Node], Any]] = {
    "Add": _sum,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Dropout": _unary(torch.clone),
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(torch.clone),
    "LRN": _lrn,
    "MaxPool": _pool,
    "Mul": _multiply,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _unary(torch.sigmoid),
    "Softmax": _softmax,
    "Squeeze": _reshape,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
