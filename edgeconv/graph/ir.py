"""The network between importer and code generator: values, nodes, and the few edits passes need.

Shapes are static, layouts are ONNX's own (NCHW); the physical layout of a value is chosen late, by
`graph.layout`, and kept beside the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeconv.operators import registry


@dataclass(eq=False)
class Value:
    """One tensor: a graph input, a constant (`data` is set), or the output of a node."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None

    @property
    def is_constant(self) -> bool:
        """True if the value is known at compile time."""
        return self.data is not None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __repr__(self) -> str:
        kind = "constant " if self.is_constant else ""
        return f"{kind}{self.name}: {self.dtype}{list(self.shape)}"


@dataclass(eq=False)
class Node:
    """One operator. `attrs` are hashable, so equal operators can share a kernel."""

    name: str
    op: str
    inputs: list[Value]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    source: tuple[str, ...] = ()  # names of the ONNX nodes it came from

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    def __repr__(self) -> str:
        ins = ", ".join(v.name for v in self.inputs)
        return f"{', '.join(v.name for v in self.outputs)} = {self.op}({ins}) {self.attrs}"


class Graph:
    """Nodes in execution order with the graph's inputs and outputs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self._names: set[str] = set()

    def fresh(self, name: str) -> str:
        """`name`, or `name_2`, `name_3` …: the first that is not taken."""
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def input(self, name: str, shape: Iterable[int], dtype: str) -> Value:
        """Declare a graph input."""
        value = Value(self.fresh(name), tuple(int(d) for d in shape), dtype)
        self.inputs.append(value)
        return value

    def constant(self, name: str, data: np.ndarray) -> Value:
        """Wrap an array known at compile time."""
        data = np.ascontiguousarray(data).reshape(np.shape(data))
        return Value(self.fresh(name), tuple(data.shape), str(data.dtype), data)

    def make(
        self,
        op: str,
        inputs: Iterable[Value],
        *,
        name: str,
        source: Iterable[str] = (),
        output_names: Iterable[str] = (),
        **attrs: Any,
    ) -> Node:
        """Create a node without inserting it; output shapes and types come from the operator.

        Raises:
            ShapeError (a ModelError) if the operator refuses these inputs.
        """
        ins = list(inputs)
        types = registry.infer(op, [(v.shape, v.dtype) for v in ins], attrs)
        names = list(output_names) or [
            name if len(types) == 1 else f"{name}.{i}" for i in range(len(types))
        ]
        outs = [Value(self.fresh(n), s, d) for n, (s, d) in zip(names, types, strict=True)]
        return Node(name, op, ins, outs, attrs, tuple(source))

    def add(self, op: str, inputs: Iterable[Value], **kwargs: Any) -> Node:
        """`make` a node and append it."""
        node = self.make(op, inputs, **kwargs)
        self.nodes.append(node)
        return node

    def copy(self) -> Graph:
        """A graph that passes can change without changing this one; constants' data are shared."""
        return self.twin()[0]

    def twin(self) -> tuple[Graph, dict[Value, Value]]:
        """A `copy`, and the value of it that stands for each of this graph."""
        twin = Graph(self.name)
        twin._names = set(self._names)
        values: dict[Value, Value] = {}

        def same(value: Value) -> Value:
            if value not in values:
                values[value] = Value(value.name, value.shape, value.dtype, value.data)
            return values[value]

        twin.inputs = [same(v) for v in self.inputs]
        for n in self.nodes:
            ins, outs = [same(v) for v in n.inputs], [same(v) for v in n.outputs]
            twin.nodes.append(Node(n.name, n.op, ins, outs, dict(n.attrs), n.source))
        twin.outputs = [same(v) for v in self.outputs]
        return twin, values

    def producers(self) -> dict[Value, Node]:
        """The node that makes each value."""
        return {v: n for n in self.nodes for v in n.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, once per reading operand."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        return readers

    def sole_reader(self, value: Value, consumers: dict[Value, list[Node]]) -> Node | None:
        """The one node that reads a value, by one operand, if nobody else needs it."""
        readers = consumers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, and the graph's outputs, use `new`."""
        for node in self.nodes:
            node.inputs = [new if v is old else v for v in node.inputs]
        self.outputs = [new if v is old else v for v in self.outputs]

    def prune(self) -> None:
        """Drop nodes whose outputs nobody needs."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if any(v in needed for v in node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __str__(self) -> str:
        head = ", ".join(map(repr, self.inputs))
        return f"{self.name}({head}):\n" + "\n".join(f"  {n}" for n in self.nodes)
