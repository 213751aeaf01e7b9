"""Recognise a depthwise convolution followed by a pointwise one: MobileNet's block, a DDC layer and
its 1×1, filter and projection of an inverted residual.
"""

from __future__ import annotations

from edgeconv.graph.ir import Node
from edgeconv.graph.pair_rules import both, not_depthwise, not_pointwise


def mismatch(first: Node, second: Node) -> str | None:
    """None, or a sentence why these two nodes are no such pair."""
    found = both(first, second)
    if isinstance(found, str):
        return found
    return not_depthwise(found[0]) or not_pointwise(found[1])
