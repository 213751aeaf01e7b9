"""Softmax, and normalisation across channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from edgeconv.operators import vector_math as vm
from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.reduce import maximum, reduction
from edgeconv.operators.registry import Pattern, operator


def _shifted(x: te.Tensor, axis: int) -> tuple[Callable[..., Any], te.Tensor, Callable[..., Any]]:
    """x - max, the sums of its exponentials, and the index of an element's sum."""

    def group(index: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*index[:axis], 0, *index[axis + 1 :])

    largest = reduction(x, (axis,), True, "largest", maximum)

    def shifted(*index: Any) -> Any:
        return x(*index) - largest(*group(index))

    exponential = te.compute(x.shape, lambda *i: vm.exp(shifted(*i)), name="exponential")
    total = reduction(exponential, (axis,), True, "total", lambda a, v: te.sum(v, axis=a))
    return shifted, total, lambda *i: (exponential(*i), total(*group(i)))


@operator("softmax", Pattern.OPAQUE)
def softmax(x: te.Tensor, *, axis: int) -> te.Tensor:
    """e^x / sum of e^x along `axis`, computed from x - max."""
    *_, parts = _shifted(x, axis)

    def element(*index: Any) -> Any:
        exponential, total = parts(*index)
        return exponential / total

    return te.compute(x.shape, element, name="softmax")


@operator("log_softmax", Pattern.OPAQUE)
def log_softmax(x: te.Tensor, *, axis: int) -> te.Tensor:
    """log(softmax(x)) = x - max - log(sum of e^(x - max))."""
    shifted, total, _ = _shifted(x, axis)
    shape = static_shape(total)
    logarithm = te.compute(shape, lambda *i: vm.log(total(*i)), name="logarithm")
    return te.compute(
        x.shape,
        lambda *i: shifted(*i) - logarithm(*i[:axis], 0, *i[axis + 1 :]),
        name="log_softmax",
    )


@operator("lrn", Pattern.OPAQUE)
def lrn(x: te.Tensor, *, size: int, alpha: float, beta: float, bias: float) -> te.Tensor:
    """x / (bias + alpha/size · Σ x²)^beta: the sum of `size` neighbouring channels (axis 1)."""
    shape = static_shape(x)
    channels, dtype = shape[1], str(x.dtype)
    before = (size - 1) // 2

    def const(value: float) -> Any:
        return tirx.const(value, dtype)

    def square(n: Any, c: Any, *rest: Any) -> Any:
        value = x(n, c - before, *rest)
        inside = tirx.all(c >= before, c < channels + before)
        return tirx.if_then_else(inside, value * value, const(0))

    padded = te.compute((shape[0], channels + size - 1, *shape[2:]), square, name="squares")
    window = te.reduce_axis((0, size), "window")
    total = te.compute(
        shape,
        lambda n, c, *rest: te.sum(padded(n, c + window, *rest), axis=window),
        name="total",
    )

    def scaled(*index: Any) -> Any:
        base = const(bias) + total(*index) * const(alpha / size)
        if beta == 0.75:  # AlexNet's; square roots vectorise
            root = tirx.sqrt(base)
            return x(*index) / (root * tirx.sqrt(root))
        return x(*index) * vm.exp(vm.log(base) * const(-beta))

    return te.compute(shape, scaled, name="lrn")
