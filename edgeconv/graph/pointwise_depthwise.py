"""Recognise a pointwise convolution followed by a depthwise one: BSConv-U, the tail of BSConv-S
(Haase and Amthor, CVPR 2020), expansion and filter of an inverted residual (MobileNetV2).

Bias and activation between them are no obstacle: the kernel pads the map between with zeros, as the
depthwise convolution does.
"""

from __future__ import annotations

from edgeconv.graph.ir import Node
from edgeconv.graph.pair_rules import both, not_depthwise, not_pointwise


def mismatch(first: Node, second: Node) -> str | None:
    """None, or a sentence why these two nodes are no such pair."""
    found = both(first, second)
    if isinstance(found, str):
        return found
    return not_pointwise(found[0]) or not_depthwise(found[1])
