"""Values whose channels belong together: channel i of one is made of channel i of the others.

Depthwise convolutions, pooling, activations, residual additions keep channels apart, so all their
operands have the same channels in the same order. A component is a set of such values. Dense
convolutions make its values (a row of weights a channel) and read them (a column). Where nothing
else touches a component, its channels may be permuted, or some left out, in one go.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.linked import Linked
from edgeconv.graph.parts import has_constant_weights
from edgeconv.operators import registry
from edgeconv.operators.pooling import POOLS

BINARY = ("add", "subtract", "multiply", "maximum", "minimum")


@dataclass
class Component:
    """Values with the same channels.

    Attributes:
        values: all of them.
        inner: nodes that keep channels apart, in order; inputs and outputs are `values`.
        makers: dense convolutions whose output is one of them, in order.
        readers: dense convolutions whose data is one of them, in order.
    """

    values: list[Value] = field(default_factory=list)
    inner: list[Node] = field(default_factory=list)
    makers: list[Node] = field(default_factory=list)
    readers: list[Node] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Channels of every value."""
        return self.values[0].shape[1]

    def take(self, graph: Graph, kept: np.ndarray) -> None:
        """Let channel i be what channel kept[i] was; channels not in `kept` are gone."""
        channels = self.channels
        for value in self.values:
            value.shape = (value.shape[0], len(kept), *value.shape[2:])
        for node in self.makers:
            take_filters(graph, node, kept)
        for node in self.readers:
            take_constant(graph, node, 1, kept, axis=1)
        for node in self.inner:
            if node.op == "conv2d":
                take_filters(graph, node, kept)
                node.attrs["groups"] = len(kept)
            else:
                take_channels(graph, node, channels, kept)


def take_filters(graph: Graph, node: Node, kept: np.ndarray) -> None:
    """Let filter i of a convolution be what filter kept[i] was."""
    for position in range(1, 2 + bool(node.attrs.get("has_bias"))):
        take_constant(graph, node, position, kept)


def take_channels(graph: Graph, node: Node, channels: int, kept: np.ndarray) -> None:
    """Let what any other operator knows of channel i of `channels` be what it knew of kept[i]."""
    if node.op == "reshape":
        shape = node.attrs["shape"]
        node.attrs["shape"] = (shape[0], len(kept), *shape[2:])
        return
    for position, value in enumerate(node.inputs):
        if value.is_constant and value.size == channels > 1:
            take_constant(graph, node, position, kept, value.shape.index(channels))


def take_constant(graph: Graph, node: Node, position: int, kept: np.ndarray, axis: int = 0) -> None:
    """Let entry i of a constant operand be what entry kept[i] was."""
    value = node.inputs[position]
    assert value.data is not None
    node.inputs[position] = graph.constant(value.name, np.take(value.data, kept, axis))


def components(graph: Graph) -> list[Component]:
    """All components that nothing but convolutions touches, in the order of their values."""
    linked = Linked[Value]()
    pinned: set[Value] = {*graph.inputs, *graph.outputs}
    for node in graph.nodes:
        data = [v for v in node.inputs if not v.is_constant]
        if is_dense(node):
            linked.root(data[0])
            linked.join([node.output, *data[1:]])
        elif keeps_channels(node):
            linked.join([node.output, *data])
        else:
            pinned.update(data, node.outputs)
    fixed = {linked.root(v) for v in pinned if v in linked}
    sets = {root: values for root, values in linked.sets().items() if root not in fixed}
    found = {root: Component(values) for root, values in sets.items()}
    for node in graph.nodes:
        _enter(node, found, linked)
    return [c for c in found.values() if len({v.shape[1] for v in c.values}) == 1]


def _enter(node: Node, found: dict[Value, Component], linked: Linked[Value]) -> None:
    """Note a node in the components it touches."""
    output = found.get(linked.root(node.outputs[0]))
    if is_dense(node):
        data = found.get(linked.root(node.inputs[0]))
        if data is not None:
            data.readers.append(node)
        if output is not None:
            output.makers.append(node)
    elif output is not None:
        output.inner.append(node)


def component_above(graph: Graph, value: Value, free: Collection[Node]) -> Component | None:
    """The component that ends in `value`: up to the dense convolutions that make it.

    None if anything else makes, or sees, its channels; what `free` nodes see does not matter.
    """
    producers, consumers = graph.producers(), graph.consumers()
    values: dict[Value, None] = {}
    touched: set[Node] = set()
    pending = [value]
    while pending:
        found = pending.pop()
        node = producers.get(found)
        if found in values:
            continue
        if node is None or found in graph.outputs or found.shape[1:2] != value.shape[1:2]:
            return None
        values[found] = None
        touched.update((node, *(r for r in consumers.get(found, []) if r not in free)))
        if is_dense(node):
            pending += node.inputs[-1:] if node.attrs.get("has_residual") else []
        elif keeps_channels(node):
            pending += [v for v in node.inputs if not v.is_constant]
        else:
            return None
    component = Component(list(values))
    for node in (n for n in graph.nodes if n in touched):
        if is_dense(node):
            component.makers += [node] * (node.output in values)
            component.readers += [node] * (node.inputs[0] in values)
            residual = node.inputs[-1] if node.attrs.get("has_residual") else None
            if residual in values and node.output not in values:
                return None
        elif keeps_channels(node) and node.output in values:
            component.inner.append(node)
        else:
            return None
    return component


def is_dense(node: Node) -> bool:
    """A convolution of maps whose filters read all channels, with constant weights."""
    return _is_convolution(node) and node.attrs["groups"] == 1


def is_depthwise(node: Node) -> bool:
    """A convolution of each channel by itself, with constant weights."""
    if not _is_convolution(node):
        return False
    return bool(node.attrs["groups"] == node.inputs[1].shape[0] == node.inputs[0].shape[1] > 1)


def is_grouped(node: Node) -> bool:
    """A convolution of more than one group, depthwise ones too, with constant weights."""
    return _is_convolution(node) and node.attrs["groups"] > 1


def is_plain(node: Node) -> bool:
    """A convolution of a map without gaps, in groups or not, with constant weights."""
    return _is_convolution(node) and node.attrs.get("input_stride", (1, 1)) == (1, 1)


def _is_convolution(node: Node) -> bool:
    a = node.attrs
    if node.op != "conv2d" or node.output.dtype != "float32":
        return False
    special = a.get("depth") is not None or a.get("clusters") is not None
    special = special or a.get("input_shuffle", 1) > 1
    residual = not a.get("has_residual") or not node.inputs[-1].is_constant
    data = not node.inputs[0].is_constant
    return data and residual and not special and has_constant_weights(node)


def keeps_channels(node: Node) -> bool:
    """Whether channel i of the output depends on nothing but channel i of the inputs."""
    if is_depthwise(node):
        return True
    if len(node.outputs) != 1 or len(node.output.shape) < 2 or node.op == "conv2d":
        return False
    shape, data = node.output.shape, [v for v in node.inputs if not v.is_constant]
    if not data or any(v.dtype != "float32" for v in (*data, node.output)):
        return False
    if len(node.inputs) == 1:
        x = node.inputs[0].shape
        if node.op == "reduce_mean":
            axes = node.attrs["axes"]
            return len(x) == 4 and bool(node.attrs["keepdims"]) and set(axes) <= {2, 3}
        if node.op == "reshape":
            pixels = {*x[2:], *shape[2:]}
            return len(x) >= 2 and x[:2] == shape[:2] and pixels <= {1}
        return node.op in POOLS or registry.get(node.op).scalar is not None
    if node.op not in BINARY or len(node.inputs) != 2:
        return False
    return all(_has_channels(v, shape) for v in node.inputs)


def _has_channels(value: Value, shape: tuple[int, ...]) -> bool:
    """Whether an operand has the output's channels, or is one number a channel or for all."""
    if not value.is_constant:
        return len(value.shape) == len(shape) and value.shape[:2] == shape[:2]
    if value.size == 1:
        return True
    aligned = (1,) * (len(shape) - len(value.shape)) + value.shape
    return len(aligned) == len(shape) and aligned[1] == shape[1] == value.size
