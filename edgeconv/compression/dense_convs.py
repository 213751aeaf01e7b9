"""Which convolutions of a model can be decomposed, and why others can't."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx

from edgeconv.compression.report import KeptLayer
from edgeconv.compression.values import Facts
from edgeconv.errors import EdgeconvError
from edgeconv.importer.limits import all_graphs
from edgeconv.importer.windows import same_padding

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class DenseConv:
    """A dense convolution with constant weights.

    Attributes:
        node: its place in the graph.
        weight: [K, C, *kernel].
        bias: [K], or None.
        padding: begins, then ends.
        output_shape: [N, K, *spatial].
    """

    node: int
    name: str
    input: str
    output: str
    weight: np.ndarray
    bias: np.ndarray | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def taps(self) -> int:
        """R·S."""
        return math.prod(self.weight.shape[2:])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self._pixels * self.weight.size

    def macs_at(self, rank: int) -> int:
        """The same as a depthwise convolution of `rank` filters a channel, and a 1×1."""
        outputs, channels = self.weight.shape[:2]
        return self._pixels * channels * rank * (self.taps + outputs)

    @property
    def full_rank(self) -> int:
        """The least rank that is exact whatever the weights are."""
        return min(self.taps, self.weight.shape[0])

    @property
    def _pixels(self) -> int:
        return self.output_shape[0] * math.prod(self.output_shape[2:])


def find(
    model: onnx.ModelProto, facts: Facts, only: Sequence[str], skip: Sequence[str]
) -> tuple[list[DenseConv], list[KeptLayer]]:
    """All convolutions: those that can be decomposed, and the others.

    `only` and `skip` hold names of nodes, or patterns such as "layer4*".

    Raises:
        EdgeconvError: a name or pattern fits no convolution, or there is nothing to decompose.
    """
    found: list[DenseConv] = []
    kept: list[KeptLayer] = []
    used = dict.fromkeys((*only, *skip), False)
    graph = model.graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    for index, node in enumerate(graph.node):
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        name = node.name or node.output[0]
        for pattern in used:
            used[pattern] |= fnmatchcase(name, pattern)
        if any(fnmatchcase(name, p) for p in skip):
            reason = "skipped"
        elif only and not any(fnmatchcase(name, p) for p in only):
            reason = "not chosen"
        else:
            reason = _reason(node, facts, producers)
        if reason:
            kept.append(KeptLayer(name, reason))
        else:
            found.append(_dense(index, name, node, facts))
    inner = [g for g in all_graphs(graph) if g is not graph]
    kept += [
        KeptLayer(node.name or node.output[0], "inside a branch")
        for node in (n for g in inner for n in g.node)
        if node.op_type == "Conv"
    ]
    for pattern, fits in used.items():
        if not fits:
            names = ", ".join(sorted({*(c.name for c in found), *(k.name for k in kept)}))
            raise EdgeconvError(f"no convolution is called '{pattern}'; there are: {names}")
    if not found:
        reasons = "; ".join(f"{k.name}: {k.reason}" for k in kept[:5])
        more = f"; and {len(kept) - 5} more" if len(kept) > 5 else ""
        raise EdgeconvError(
            "the model has no dense convolution of constant weights to decompose"
            + (f" ({reasons}{more})" if kept else "")
        )
    return found, kept


def _reason(node: onnx.NodeProto, facts: Facts, producers: dict[str, str]) -> str:
    """Why a convolution can't be decomposed, or ""."""
    weight = facts.values.get(node.input[1])
    origin = producers.get(node.input[1], "")
    if weight is None or weight.data is None or origin not in ("", "Constant", "Identity"):
        return f"its weights come from {origin or 'an input'}"
    if weight.dtype not in _FLOATS:
        return f"its weights are {weight.dtype}"
    if not np.isfinite(weight.data).all():
        return "its weights hold infinities or NaN"
    groups = int(_attribute(node, "group", 1))
    if groups > 1:
        channels = weight.shape[1] * groups
        return "it is depthwise" if groups == channels else f"it has {groups} groups"
    if math.prod(weight.shape[2:]) == 1:
        return "it is 1×1"
    if len(node.input) > 2 and node.input[2] and facts.array(node.input[2]) is None:
        return "its bias is computed at run time"
    if facts.values[node.input[0]].is_constant:
        return "its input is constant"
    return ""


def _dense(index: int, name: str, node: onnx.NodeProto, facts: Facts) -> DenseConv:
    weight = facts.array(node.input[1])
    assert weight is not None
    rank = weight.ndim - 2
    stride = tuple(_attribute(node, "strides", (1,) * rank))
    dilation = tuple(_attribute(node, "dilations", (1,) * rank))
    padding = tuple(_attribute(node, "pads", (0,) * 2 * rank))
    spatial = facts.values[node.input[0]].shape[2:]
    mode = _attribute(node, "auto_pad", b"NOTSET").decode()
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        lower = mode == "SAME_LOWER"
        padding = same_padding(spatial, weight.shape[2:], stride, dilation, lower=lower)
    elif mode == "VALID":
        padding = (0,) * 2 * rank
    bias = facts.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    sizes = [
        (spatial[i] + padding[i] + padding[rank + i] - dilation[i] * (weight.shape[2 + i] - 1) - 1)
        // stride[i]
        + 1
        for i in range(rank)
    ]
    shape = (facts.values[node.input[0]].shape[0], weight.shape[0], *sizes)
    return DenseConv(
        index,
        name,
        node.input[0],
        node.output[0],
        weight,
        bias,
        stride,
        dilation,
        padding,
        shape,
    )


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
