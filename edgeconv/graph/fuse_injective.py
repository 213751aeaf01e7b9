"""Merge chains of elementwise and injective operators, so that each chain reads and writes memory
once.
"""

from __future__ import annotations

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.operators.fused import FusedBody, FusedStep, pattern_of
from edgeconv.operators.registry import Pattern

MAX_STEPS = 16
_ALIASES = ("reshape", "pixels", "rows")  # free as they are: never part of a kernel


def fuse_injective(graph: Graph) -> int:
    """Fuse while some injective operator has a single injective reader; the number of merges."""
    count = 0
    while _fuse_one(graph):
        count += 1
    return count


def _fuse_one(graph: Graph) -> bool:
    consumers = graph.consumers()
    for node in graph.nodes:
        if node.op in _ALIASES or len(node.outputs) != 1:
            continue
        readers = consumers.get(node.output, [])
        if not readers or node.output in graph.outputs or any(r is not readers[0] for r in readers):
            continue
        reader = readers[0]
        if reader.op in _ALIASES or len(reader.outputs) != 1:
            continue
        # only elementwise chains: behind a gather, an elementwise producer may be evaluated anew
        if (
            pattern_of(node.op, node.attrs) is not Pattern.ELEMENTWISE
            or pattern_of(reader.op, reader.attrs) is not Pattern.ELEMENTWISE
        ):
            continue
        merged = _merge(node, reader)
        if len(merged.attrs["body"].steps) > MAX_STEPS:
            continue
        graph.nodes[graph.nodes.index(reader)] = merged
        graph.nodes.remove(node)
        return True
    return False


def _body(node: Node) -> FusedBody:
    if node.op == "fused":
        body: FusedBody = node.attrs["body"]
        return body
    attrs = tuple(sorted(node.attrs.items()))
    count = len(node.inputs)
    return FusedBody(count, (FusedStep(node.op, attrs, tuple(range(count))),))


def _merge(first: Node, second: Node) -> Node:
    """`second` with its operand `first.output` computed inside."""
    inputs: list[Value] = []
    for value in [*first.inputs, *second.inputs]:
        if value is not first.output and not any(value is v for v in inputs):
            inputs.append(value)
    number = {v: i for i, v in enumerate(inputs)}
    steps: list[FusedStep] = []
    for node in (first, second):
        body = _body(node)
        local = [number[v] for v in node.inputs]
        for step in body.steps:
            args = tuple(local[a] for a in step.args)
            steps.append(FusedStep(step.op, step.attrs, args))
            local.append(len(inputs) + len(steps) - 1)
        number[node.output] = len(inputs) + len(steps) - 1
    body = FusedBody(len(inputs), tuple(steps))
    return Node(
        second.name, "fused", inputs, second.outputs, {"body": body}, first.source + second.source
    )
