"""The table of operators: a name, a fusion pattern, and a tensor expression.

A new operator is one decorated function:

    @operator("softmax", Pattern.OPAQUE)
    def softmax(x: te.Tensor, *, axis: int) -> te.Tensor: ...

Positional arguments are tensors, keyword arguments are the node's (hashable) attributes.
Output shapes and types are read off the expression, so they are never written twice.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from edgeconv.errors import ModelError

TensorType = tuple[tuple[int, ...], str]


class Pattern(enum.Enum):
    """How an operator may be fused with its neighbours."""

    ELEMENTWISE = "elementwise"  # out[i] reads in[i] only (after numpy broadcasting): any layout
    INJECTIVE = "injective"  # out[i] reads one in[f(i)] per operand: slices, transposes, concat
    REDUCTION = "reduction"  # one reduction stage, inputs may be fused into it
    OPAQUE = "opaque"  # several stages, or its own schedule: fused with nothing


class ShapeError(ModelError):
    """An operator refuses the shapes or attributes it was given."""


@dataclass(frozen=True)
class Operator:
    """One row of the table."""

    name: str
    pattern: Pattern
    compute: Callable[..., Any]
    scalar: Callable[..., Any] | None = None  # for unary elementwise: expression of one element

    def __call__(self, *tensors: te.Tensor, **attrs: Any) -> list[te.Tensor]:
        """The output tensors as a list."""
        result = self.compute(*tensors, **attrs)
        return list(result) if isinstance(result, (list, tuple)) else [result]


_TABLE: dict[str, Operator] = {}


def operator(name: str, pattern: Pattern) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated tensor expression under `name`."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        _TABLE[name] = Operator(name, pattern, fn)
        return fn

    return register


def unary(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an element's formula `f(x, **attrs)`; convolutions can apply it in registers too."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        def compute(x: te.Tensor, **attrs: Any) -> te.Tensor:
            return te.compute(x.shape, lambda *i: fn(x(*i), **attrs), name=name)

        _TABLE[name] = Operator(name, Pattern.ELEMENTWISE, compute, fn)
        return fn

    return register


def get(name: str) -> Operator:
    """The operator called `name`; KeyError if there is none."""
    return _TABLE[name]


def names() -> list[str]:
    """All registered operators, sorted."""
    return sorted(_TABLE)


def infer(name: str, inputs: Sequence[TensorType], attrs: dict[str, Any]) -> list[TensorType]:
    """Shapes and types of the outputs.

    Raises:
        ShapeError: the expression can't be built on these inputs.
    """
    return list(_infer(name, tuple(inputs), tuple(sorted(attrs.items()))))


@functools.lru_cache(maxsize=4096)
def _infer(
    name: str, inputs: tuple[TensorType, ...], attrs: tuple[tuple[str, Any], ...]
) -> tuple[TensorType, ...]:
    tensors = [te.placeholder(s, d, name=f"x{i}") for i, (s, d) in enumerate(inputs)]
    try:
        outputs = get(name)(*tensors, **dict(attrs))
        return tuple((tuple(int(d) for d in t.shape), str(t.dtype)) for t in outputs)
    except ShapeError:
        raise
    except Exception as error:  # TVM raises many kinds; the user gets one, with the cause chained
        shapes = ", ".join(f"{d}{list(s)}" for s, d in inputs)
        first = str(error).strip().splitlines()
        reason = first[-1] if first else type(error).__name__
        raise ShapeError(f"operator '{name}' cannot take ({shapes}): {reason}") from error
