"""Concatenation of channels without copies: its operands are written where the result lies.

The chunks of an image in channel blocks (or the planes of a row-major one) lie behind each other,
so the result of a concatenation along the channels is its operands' buffers in a row, if all have
the same blocks and halo. An operand that can't be written there is copied there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.plan import Plan
from edgeconv.layout import ALIGNMENT, Layout


def place_operands(
    graph: Graph,
    plan: Plan,
    copied: Callable[[Value, list[Node]], Value],
    common: Callable[[Value, list[Layout]], Layout],
) -> None:
    """Let the operands of concatenations be written where the results lie.

    `copied` appends a node that copies a value to a list of nodes; `common` is the layout with the
    widest halo of several for a value.
    """
    directly = _written_in_place(graph, plan)
    _share_halos(directly, plan, common)
    nodes: list[Node] = []
    for node in graph.nodes:
        starts = _starts(node, plan) if node in directly else None
        if starts is not None:
            for i, start in enumerate(starts):
                if node.inputs[i] not in directly[node]:
                    node.inputs[i] = copied(node.inputs[i], nodes)
                    plan.layouts[node.inputs[i]] = plan.layouts[node.output]
                plan.placed[node.inputs[i]] = (node.output, start)
            plan.joined.add(node.output)
        nodes.append(node)
    graph.nodes = nodes


def _written_in_place(graph: Graph, plan: Plan) -> dict[Node, set[Value]]:
    """The concatenations that can be joined, and which operands their kernels can write there."""
    made = {v for node in graph.nodes for v in node.outputs} - plan.aliases.keys()
    found: dict[Node, set[Value]] = {}
    for node in graph.nodes:
        shape = node.output.shape if node.op == "concat" else ()
        if len(shape) != 4 or shape[0] != 1 or node.attrs["axis"] != 1 or 0 in shape:
            continue
        block = plan.layouts[node.output].block
        if block and any(v.shape[1] % block for v in node.inputs[:-1]):
            continue
        direct = {v for v in node.inputs if v in made and plan.layouts[v].block == block}
        direct -= {v for v in direct if node.inputs.count(v) > 1}
        if direct:
            found[node] = direct
            made -= direct
    return found


def _share_halos(
    directly: dict[Node, set[Value]],
    plan: Plan,
    common: Callable[[Value, list[Layout]], Layout],
) -> None:
    """Give operands and results the same halo, also where a result is an operand."""
    changed = True
    while changed:
        changed = False
        for node, operands in directly.items():
            values = [node.output, *operands]
            layout = common(node.output, [plan.layouts[v] for v in values])
            changed |= any(plan.layouts[v] != layout for v in values)
            plan.layouts.update(dict.fromkeys(values, layout))


def _starts(node: Node, plan: Plan) -> list[int] | None:
    """Bytes from the start of the result to that of each operand; None if one isn't aligned."""
    layout, item = plan.layouts[node.output], np.dtype(node.output.dtype).itemsize
    starts, channels = [], 0
    for value in node.inputs:
        starts.append(layout.elements((1, channels, *node.output.shape[2:])) * item)
        channels += value.shape[1]
    return None if any(start % ALIGNMENT for start in starts) else starts
