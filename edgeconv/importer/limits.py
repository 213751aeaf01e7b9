"""What the importer accepts at most, and how it names nodes and values in messages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx

from edgeconv.errors import ModelError

OPSETS = range(7, 24)
"""Versions of the default operator set a model may import."""

IR_VERSIONS = range(3, onnx.IR_VERSION + 1)
"""ONNX file format versions that hold opset 7 or later and that the installed onnx reads."""

MAX_FILE_BYTES = 2**31 - 1
"""Size limit of a protobuf message; larger models keep their weights as external data."""

MAX_WEIGHT_BYTES = 4 * 2**30
"""External weights of one model together: a sparse file must not eat the memory."""

MAX_SIZE = 2**31 - 1
"""Largest dimension, element count, stride, kernel, …: what 32-bit index arithmetic can hold."""

MAX_RANK = 64
"""Dimensions of a tensor, and so the largest axis; ONNX's shape inference crashes on wild ones."""

MAX_DEPTH = 8
"""Nesting of subgraphs (If in Loop in …); native code recurses once a level."""

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None is a dimension known only by name, or not at all."""


def quoted(text: str) -> str:
    """A name from the file, in quotes: control characters escaped, at most 80 characters.

    Raises:
        ModelError: the text is not UTF-8; protobuf hands it over as bytes then.
    """
    if not isinstance(text, str):
        raise ModelError(f"the name {bytes(text)[:40]!r} is not valid UTF-8; the file is damaged")
    shown = text if len(text) <= 80 else text[:77] + "..."
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + "'"


def node_label(node: onnx.NodeProto, index: int) -> str:
    """How messages call a node: its name, or its place in the graph when it has none.

    Raises:
        ModelError: a text of the node is not UTF-8.
    """
    try:
        name, operator = node.name, node.op_type
        attributes = (a.name for a in node.attribute)
        texts = (name, operator, node.domain, *node.input, *node.output, *attributes)
        decoded = all(isinstance(text, str) for text in texts)
    except UnicodeDecodeError:
        decoded = False
    if not decoded:  # protobuf hands such a text over as bytes, or raises, by its version
        raise ModelError(f"node {index}: a name in it is not valid UTF-8; the file is damaged")
    operator = quoted(operator)[1:-1] or "no operator"
    return f"node {quoted(name)} ({operator})" if name else f"node {index} ({operator}, unnamed)"


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs a node holds: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and everything nested in it, without recursion.

    Raises:
        ModelError: nested deeper than `MAX_DEPTH`.
    """
    waiting = [(graph, 0)]
    while waiting:
        current, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ModelError(f"subgraphs are nested more than {MAX_DEPTH} deep; flatten the model")
        yield current
        waiting += [(sub, depth + 1) for node in current.node for sub in subgraphs(node)]


def element_count(dims: Sequence[int], what: str) -> int:
    """Product of `dims`.

    Raises:
        ModelError: a size is negative, there are too many, or the product overflows 32 bits.
    """
    if len(dims) > MAX_RANK:
        raise ModelError(f"{what}: it has {len(dims)} dimensions, the limit is {MAX_RANK}")
    if any(d < 0 for d in dims):
        raise ModelError(f"{what}: shape {list(dims)} has a negative size")
    if any(d > MAX_SIZE for d in dims) or math.prod(dims) > MAX_SIZE:
        raise ModelError(f"{what}: shape {list(dims)} is too big, the limit is {MAX_SIZE} elements")
    return math.prod(dims)
