"""What two convolutions must have in common to become one kernel, whatever kinds they are."""

from __future__ import annotations

from edgeconv.graph.ir import Node
from edgeconv.graph.parts import has_constant_weights, parts
from edgeconv.workload import Conv2d


def workload(node: Node) -> Conv2d | str:
    """The convolution of a node that is a single one, float32 with constant weights; or a sentence
    why it is not.
    """
    a = node.attrs
    if node.op != "conv2d" or node.output.dtype != "float32":
        return f"{node.name} is no float32 convolution of images"
    if not has_constant_weights(node):
        return f"the weights of {node.name} are known at run time only"
    if a.get("depth") is not None or a.get("input_stride", (1, 1)) != (1, 1):
        return f"{node.name} is transposed, or of volumes"
    (part,) = parts(node)
    if min(part.conv.padding) < 0:
        return f"the input of {node.name} is cut"
    if part.conv.input_shuffle > 1:
        return f"{node.name} reads its channels shuffled"
    return part.conv


def both(first: Node, second: Node) -> tuple[Conv2d, Conv2d] | str:
    """The two workloads, or why there are none."""
    one, other = workload(first), workload(second)
    if isinstance(one, str):
        return one
    if isinstance(other, str):
        return other
    if second.inputs[0] is not first.output:
        return f"{second.name} does not convolve what {first.name} makes"
    if first.attrs.get("has_residual"):
        return f"something is added behind {first.name}"
    return one, other


def not_pointwise(conv: Conv2d) -> str | None:
    """None for a 1×1 convolution of all channels and pixels."""
    if conv.clusters is not None:
        return f"{conv} reads other channels for each output"
    if not conv.is_pointwise or conv.groups > 1:
        return f"{conv} is not pointwise over all channels"
    if conv.stride != (1, 1) or any(conv.padding):
        return f"{conv} skips or pads pixels"
    return None


def not_depthwise(conv: Conv2d) -> str | None:
    """None for a filter a channel."""
    if not conv.is_depthwise or conv.out_channels != conv.in_channels:
        return f"{conv} is not depthwise with a filter a channel"
    return None
