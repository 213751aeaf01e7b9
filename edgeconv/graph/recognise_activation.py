"""Recognise activations that exporters write as two operators: x·sigmoid(x), x·hard_sigmoid(x)."""

from __future__ import annotations

import math
from typing import Any

from edgeconv.graph.ir import Graph, Node

_GATES: dict[str, str] = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}


def recognise_activation(graph: Graph) -> int:
    """Rewrite every x · gate(x) as one unary operator; the number of rewrites."""
    count = 0
    producers = graph.producers()
    for index, node in enumerate(graph.nodes):
        if node.op != "multiply":
            continue
        for x, gated in (node.inputs, node.inputs[::-1]):
            gate = producers.get(gated)
            if gate is None or gate.op not in _GATES or gate.inputs[0] is not x:
                continue
            if gate.op == "hard_sigmoid" and not _is_swish_gate(gate.attrs):
                continue
            op = _GATES[gate.op]
            graph.nodes[index] = Node(
                node.name, op, [x], node.outputs, {}, gate.source + node.source
            )
            count += 1
            break
    graph.prune()
    return count


def _is_swish_gate(attrs: dict[str, Any]) -> bool:
    return math.isclose(attrs["alpha"], 1 / 6, rel_tol=1e-5) and math.isclose(attrs["beta"], 0.5)
