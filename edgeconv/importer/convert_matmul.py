"""Matrix products."""

from __future__ import annotations

import math

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts, in_float32
from edgeconv.operators.registry import ShapeError


@converts("Gemm")
@in_float32
def gemm(node: NodeContext) -> Value:
    """alpha·A·B + beta·C; "dense" where B is a constant."""
    a, b, c = node.input(0), node.input(1), node.optional(2)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if node.attr("transA", 0):
        a = node.apply("transpose", [a], perm=(1, 0))
    if not node.attr("transB", 0):
        b = node.apply("transpose", [b], perm=(1, 0))
    if len(a.shape) == 4 and node.opset < 7 and len(b.shape) == 2:
        a = node.reshape(a, (a.shape[0], a.size // a.shape[0]))
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(f"{list(a.shape)} and (as N, K) {list(b.shape)} are no matrices that fit")
    if c is not None and beta != 1.0:
        c = _scaled(node, c, beta)
    if b.data is None or a.data is not None:
        out = node.emit("matmul", [a, node.apply("transpose", [b], perm=(1, 0))])
        if alpha != 1.0:
            out = node.emit("multiply", [out, node.like(out, alpha)])
        return out if c is None else node.emit("add", [out, c])
    if alpha != 1.0:
        b = _scaled(node, b, alpha)
    if c is not None and c.data is not None and c.size in (1, b.shape[0]) and _is_row(c):
        row = np.broadcast_to(c.data.reshape(-1), (b.shape[0],))
        return node.emit("dense", [a, b, node.constant(row)], has_bias=True)
    out = node.emit("dense", [a, b])
    return out if c is None else node.emit("add", [out, c])


def _is_row(c: Value) -> bool:
    return all(d == 1 for d in c.shape[:-1])


def _scaled(node: NodeContext, x: Value, factor: float) -> Value:
    if x.data is not None and "float" in x.dtype:
        return node.constant((x.data.astype(np.float64) * factor).astype(x.dtype))
    return node.emit("multiply", [x, node.like(x, factor)])


@converts("MatMul")
@in_float32
def matmul(node: NodeContext) -> Value:
    """Numpy's matmul; "dense" where the right side is a constant matrix."""
    return product(node, node.input(0), node.input(1))


def product(node: NodeContext, a: Value, b: Value, op: str = "matmul") -> Value:
    """a times b for all ranks; vectors become matrices."""
    shape = _result_shape(a.shape, b.shape)
    if len(a.shape) == 1:
        a = node.reshape(a, (1, *a.shape))
    if len(b.shape) == 1:
        b = node.reshape(b, (*b.shape, 1))
    if b.data is not None and len(b.shape) == 2 and a.data is None and op == "matmul":
        rows = math.prod(a.shape[:-1])
        weight = node.apply("transpose", [b], perm=(1, 0))
        out = node.emit("dense", [node.reshape(a, (rows, a.shape[-1])), weight])
    else:
        out = node.emit(op, [a, b])
    return node.reshape(out, shape)


def _result_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b:
        raise ShapeError("a product of scalars")
    if a[-1] != (b[-2] if len(b) > 1 else b[0]):
        raise ShapeError(f"{list(a)} times {list(b)}")
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    return (*batch, *a[:-1][-1:], *(b[-1:] if len(b) > 1 else ()))


@converts("Einsum")
@in_float32
def einsum(node: NodeContext) -> Value:
    """Products over common letters, two operands at a time; a letter once in each operand."""
    equation = node.attr("equation").replace(" ", "")
    operands = [node.input(i) for i in range(len(node.inputs))]
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or "->" not in equation or any(len(set(t)) < len(t) for t in terms):
        terms, right = _spelled_out(node, terms, right, "->" in equation, operands)
    if len(operands) == 1:
        return _contracted(node, operands[0], terms[0], right)
    value, letters = operands[0], terms[0]
    for index in range(1, len(operands)):
        later = "".join(terms[index + 1 :]) + right
        value, letters = _pair(node, value, letters, operands[index], terms[index], later)
    return _contracted(node, value, letters, right)


def _spelled_out(
    node: NodeContext, terms: list[str], right: str, explicit: bool, operands: list[Value]
) -> tuple[list[str], str]:
    """Terms without ellipsis, and the implicit result."""
    spare = [chr(c) for c in range(ord("A"), ord("Z") + 1) if chr(c) not in "".join(terms) + right]
    width = max(
        len(v.shape) - len(t.replace("...", "")) for t, v in zip(terms, operands, strict=True)
    )
    dots = "".join(spare[:width])
    result = []
    for term, value in zip(terms, operands, strict=True):
        own = len(value.shape) - len(term.replace("...", ""))
        result.append(term.replace("...", dots[len(dots) - own :] if own else ""))
    if not explicit:
        plain = "".join(t.replace("...", "") for t in terms)
        right = ("..." if "..." in "".join(terms) else "") + "".join(
            sorted(c for c in set(plain) if plain.count(c) == 1)
        )
    for index, term in enumerate(result):
        for letter in sorted({c for c in term if term.count(c) > 1}):
            operands[index], term = _diagonal(node, operands[index], term, letter)
        result[index] = term
    return result, right.replace("...", dots)


def _diagonal(node: NodeContext, x: Value, term: str, letter: str) -> tuple[Value, str]:
    """x with the axes of `letter` replaced by one: its elements of equal indices."""
    own = [i for i, c in enumerate(term) if c == letter]
    rest = [i for i, c in enumerate(term) if c != letter]
    size = x.shape[own[0]]
    if any(x.shape[i] != size for i in own):
        raise ShapeError(f"index '{letter}' has different sizes in one operand")
    moved = node.apply("transpose", [x], perm=(*rest, *own))
    lead = tuple(x.shape[i] for i in rest)
    flat = node.reshape(moved, (*lead, size ** len(own)))
    step = sum(size**i for i in range(len(own)))
    taken = node.emit(
        "slice",
        [flat],
        begin=(0,) * (len(lead) + 1),
        size=(*lead, size),
        step=(*[1] * len(lead), step),
    )
    return taken, "".join(term[i] for i in rest) + letter


def _contracted(node: NodeContext, value: Value, letters: str, right: str) -> Value:
    """Sums over the letters that `right` does not have, and its order."""
    gone = tuple(i for i, c in enumerate(letters) if c not in right)
    if gone:
        value = node.emit("reduce_sum", [value], axes=gone, keepdims=False)
        letters = "".join(c for c in letters if c in right)
    perm = tuple(letters.index(c) for c in right)
    if perm == tuple(range(len(perm))):
        return value
    return node.emit("transpose", [value], perm=perm)


def _pair(node: NodeContext, a: Value, ta: str, b: Value, tb: str, later: str) -> tuple[Value, str]:
    """One matrix product: common kept letters are batch, common dropped ones are summed."""
    batch = [c for c in ta if c in tb and c in later]
    summed = [c for c in ta if c in tb and c not in later]
    rows = [c for c in ta if c not in tb]
    columns = [c for c in tb if c not in ta]
    sizes = dict(zip(tb, b.shape, strict=True)) | {}
    for c, d in zip(ta, a.shape, strict=True):
        if sizes.setdefault(c, d) == 1:
            sizes[c] = d
        elif d not in (1, sizes[c]):
            raise ShapeError(f"index '{c}' has sizes {sizes[c]} and {d}")

    def arranged(value: Value, term: str, groups: list[list[str]]) -> Value:
        own = dict(zip(term, value.shape, strict=True))
        order = [c for g in groups for c in g]
        perm = tuple(term.index(c) for c in order)
        if perm != tuple(range(len(perm))):
            value = node.apply("transpose", [value], perm=perm)
        full = tuple(sizes[c] for c in order)
        if tuple(own[c] for c in order) != full:
            value = node.emit("expand", [value], shape=full)
        lead = tuple(sizes[c] for c in groups[0])
        return node.reshape(value, (*lead, *(math.prod(sizes[c] for c in g) for g in groups[1:])))

    left = arranged(a, ta, [batch, rows, summed])
    right = arranged(b, tb, [batch, summed, columns])
    out = node.emit("matmul", [left, right])
    letters = "".join(batch + rows + columns)
    return node.reshape(out, tuple(sizes[c] for c in letters)), letters
