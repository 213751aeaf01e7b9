"""Small graphs for the tests of passes, and their values before and after."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeconv.graph.ir import Graph, Node, Value
from tests.reference import run_graph


class Maker:
    """Builds a Graph node by node."""

    def __init__(self) -> None:
        self.graph = Graph("test")
        self.rng = np.random.default_rng(0)

    def input(self, *shape: int, name: str = "x", dtype: str = "float32") -> Value:
        """A graph input."""
        value = Value(self.graph.fresh(name), shape, dtype)
        self.graph.inputs.append(value)
        return value

    def constant(self, *shape: int) -> Value:
        """Random float32 numbers."""
        return self.graph.constant("c", self.rng.standard_normal(shape).astype(np.float32))

    def node(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        """The output of a new node."""
        name = f"{op}{len(self.graph.nodes)}"
        return self.graph.add(op, inputs, name=name, source=(name,), **attrs).output

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int = 3,
        *,
        bias: bool = False,
        groups: int = 1,
        weight: Value | None = None,
        padding: tuple[int, int, int, int] | None = None,
        stride: int = 1,
    ) -> Value:
        """A convolution of square kernels that keeps the size."""
        if weight is None:
            weight = self.constant(channels, x.shape[1] // groups, kernel, kernel)
        operands = [x, weight, *([self.constant(channels)] if bias else [])]
        before, after = kernel // 2, (kernel - 1) // 2
        return self.node(
            "conv2d",
            *operands,
            stride=(stride, stride),
            padding=(before, before, after, after) if padding is None else padding,
            dilation=(1, 1),
            groups=groups,
            has_bias=bias,
        )

    def pool(self, x: Value, op: str = "max_pool2d") -> Value:
        """A 3x3 pool that keeps the size."""
        extra = {} if op == "max_pool2d" else {"divisor": "valid"}
        return self.node(
            op, x, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), padding=(1, 1, 1, 1), **extra
        )

    def done(self, *outputs: Value) -> Graph:
        """The graph with these outputs."""
        self.graph.outputs = list(outputs)
        return self.graph


def ops(graph: Graph) -> list[str]:
    """Operator names in order."""
    return [n.op for n in graph.nodes]


def only(graph: Graph, op: str) -> Node:
    """The one node with that operator."""
    (node,) = [n for n in graph.nodes if n.op == op]
    return node


def values(graph: Graph) -> list[np.ndarray]:
    """The outputs for seeded inputs, computed without any pass or schedule."""
    rng = np.random.default_rng(1)
    feeds = {}
    for v in graph.inputs:
        if v.dtype == "float32":
            feeds[v.name] = rng.standard_normal(v.shape).astype(np.float32)
        else:
            feeds[v.name] = rng.integers(0, 9, v.shape).astype(v.dtype)
    results = run_graph(graph, feeds)
    return [results[v.name] for v in graph.outputs]


def check_order(graph: Graph) -> None:
    """Every operand is an input, a constant, or made by an earlier node; nothing is made twice."""
    known = set(graph.inputs)
    for node in graph.nodes:
        for value in node.inputs:
            assert value.is_constant or value in known, (node, value)
        for value in node.outputs:
            assert value not in known
            known.add(value)
    assert all(v.is_constant or v in known for v in graph.outputs)


class Unchanged:
    """Checks that what happens inside `with` leaves values (not names) as they were."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __enter__(self) -> Graph:
        self.before = values(self.graph)
        return self.graph

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        check_order(self.graph)
        after = values(self.graph)
        assert len(after) == len(self.before)
        for old, new in zip(self.before, after, strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
