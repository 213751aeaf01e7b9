"""What the passes find in a network that is worth telling its author."""

from __future__ import annotations

from collections import Counter

from edgeconv.graph.dead_channels import remove_dead_channels
from edgeconv.graph.ir import Graph
from edgeconv.graph.parts import parts
from edgeconv.graph.pipeline import PASSES, run_pass

_NAMED = ("sliding-channel", "ragged groups")  # kinds that ONNX has no operator for


def findings(graph: Graph, lanes: int = 16) -> tuple[str, ...]:
    """One line for each finding; the graph stays as it is."""
    graph = graph.copy()
    graph.prune()
    lines = []
    for _, run in PASSES:
        if run is not remove_dead_channels:
            run_pass(graph, run, lanes)
            continue
        before = _macs(graph)
        if removed := run_pass(graph, run, lanes):
            saved = (before - _macs(graph)) / 1e6
            lines.append(
                f"dead filters removed: {_many(removed, 'channel')}, {saved:,.1f} M multiply-adds"
            )
    kinds = Counter(
        parts(n)[0].conv.kind.removeprefix("dilated ") for n in graph if n.op == "conv2d"
    )
    for kind in _NAMED:
        if kinds[kind]:
            lines.append(f"{kind}: {_many(kinds[kind], 'convolution')} recognised")
    return tuple(lines)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count > 1 else ''}"


def _macs(graph: Graph) -> int:
    """Multiply-accumulates of the convolutions."""
    return sum(part.conv.macs for node in graph if node.op == "conv2d" for part in parts(node))
