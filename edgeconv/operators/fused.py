"""A small graph of operators as one operator: what injective fusion makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import te

from edgeconv.operators.registry import Pattern, get, operator


@dataclass(frozen=True)
class FusedStep:
    """One operator inside a fused one; `args` index earlier values: inputs first, then step
    outputs.
    """

    op: str
    attrs: tuple[tuple[str, Any], ...]
    args: tuple[int, ...]


@dataclass(frozen=True)
class FusedBody:
    """The steps in order; the last step's value is the result."""

    inputs: int
    steps: tuple[FusedStep, ...]

    @property
    def pattern(self) -> Pattern:
        """Elementwise if every step is, injective otherwise."""
        elementwise = all(get(s.op).pattern is Pattern.ELEMENTWISE for s in self.steps)
        return Pattern.ELEMENTWISE if elementwise else Pattern.INJECTIVE

    @property
    def title(self) -> str:
        """The operators' names joined by "+"."""
        return "+".join(s.op for s in self.steps)


def pattern_of(op: str, attrs: Mapping[str, Any]) -> Pattern:
    """The fusion pattern of a node; a fused operator's follows from its steps."""
    if op == "fused":
        body: FusedBody = attrs["body"]
        return body.pattern
    return get(op).pattern


@operator("fused", Pattern.INJECTIVE)
def fused(*tensors: te.Tensor, body: FusedBody) -> te.Tensor:
    """The last step's output."""
    values = list(tensors)
    for step in body.steps:
        (result,) = get(step.op)(*(values[i] for i in step.args), **dict(step.attrs))
        values.append(result)
    return values[-1]
