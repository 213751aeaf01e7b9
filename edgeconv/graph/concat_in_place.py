"""Concatenations and slices of channels without copies.

The chunks of an image in channel blocks (or the planes of a row-major one) lie behind each other,
so the result of a concatenation along the channels is its operands' buffers in a row, if all have
the same blocks and halo. An operand that can't be written there is copied there. In the same way a
slice of whole blocks is read where its operand lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.graph.channel_gathers import channel_run, is_whole
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.plan import Plan
from edgeconv.layout import ALIGNMENT, Layout


def place_operands(
    graph: Graph,
    plan: Plan,
    copied: Callable[[Value, list[Node]], Value],
    common: Callable[[Value, list[Layout]], Layout],
) -> None:
    """Let the operands of concatenations be written where the results lie, and slices be read
    where their operands lie.

    `copied` appends a node that copies a value to a list of nodes; `common` is the layout with the
    widest halo of several for a value.
    """
    directly = _written_in_place(graph, plan)
    views = _read_in_place(graph, plan, directly)
    together = [[node.output, *operands] for node, operands in directly.items()]
    together += [[node.inputs[0], node.output] for node in views]
    _share_halos(together, plan, common)
    for node in views:
        start = _start(node.inputs[0], node.attrs["begin"][1], plan)
        if start % ALIGNMENT == 0:
            plan.placed[node.output] = (node.inputs[0], start)
            plan.joined.add(node.output)
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


def _read_in_place(graph: Graph, plan: Plan, directly: dict[Node, set[Value]]) -> list[Node]:
    """Slices of whole blocks of channels that lie as their operand does."""
    written = {v for operands in directly.values() for v in operands}
    found = []
    for node in graph.nodes:
        run = channel_run(node)
        if run is None or node.output in written or node.output in graph.outputs:
            continue
        x, out = node.inputs[0], node.output
        if x.is_constant or len(x.shape) != 4 or x.shape[0] != 1 or 0 in out.shape:
            continue
        block = plan.layouts[x].block
        if plan.layouts[out].block == block and is_whole(run, x.shape[1], max(block, 1)):
            found.append(node)
    return found


def _share_halos(
    together: Sequence[Sequence[Value]],
    plan: Plan,
    common: Callable[[Value, list[Layout]], Layout],
) -> None:
    """Give values the same halo that lie in one another."""
    changed = True
    while changed:
        changed = False
        for values in together:
            layout = common(values[0], [plan.layouts[v] for v in values])
            changed |= any(plan.layouts[v] != layout for v in values)
            plan.layouts.update(dict.fromkeys(values, layout))


def _starts(node: Node, plan: Plan) -> list[int] | None:
    """Bytes from the start of the result to that of each operand; None if one isn't aligned."""
    starts, channels = [], 0
    for value in node.inputs:
        starts.append(_start(node.output, channels, plan))
        channels += value.shape[1]
    return None if any(start % ALIGNMENT for start in starts) else starts


def _start(value: Value, channel: int, plan: Plan) -> int:
    """Bytes from the start of an image to the first of one of its channels."""
    elements = plan.layouts[value].elements((1, channel, *value.shape[2:]))
    return elements * np.dtype(value.dtype).itemsize
