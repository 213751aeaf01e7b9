"""Reductions over axes, one stage each."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import te, tirx

from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.registry import Pattern, operator
from edgeconv.operators.vector_math import dtype_of


def product(axis: Any, value: Any) -> Any:
    """The product of `value` over reduction axes."""
    reducer = te.comm_reducer(lambda a, b: a * b, lambda t: tirx.const(1, t), name="product")
    return reducer(value, axis=axis)


def lowest(dtype: str) -> Any:
    """What no value is below; TVM's own `min_value` of floats is finite."""
    return tirx.const(float("-inf"), dtype) if "float" in dtype else tirx.min_value(dtype)


def highest(dtype: str) -> Any:
    """What no value is above."""
    return tirx.const(float("inf"), dtype) if "float" in dtype else tirx.max_value(dtype)


def _register_reducer(combine: Callable[[Any, Any], Any], start: Callable[[str], Any]) -> None:
    """Tell TVM's `rfactor` about a reducer; it knows TVM's own only.

    TVM's table outlives Python, so the functions must never be freed.
    """
    functions = (
        tvm_ffi.convert(lambda a, b: [combine(a[0], b[0])]),
        tvm_ffi.convert(lambda values: [start(dtype_of(values[0]))]),
    )
    for function in functions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(function))
    tvm_ffi.get_global_func("s_tir.schedule.RegisterReducer")(1, *functions)


_register_reducer(lambda a, b: tirx.max(a, b), lowest)
_register_reducer(lambda a, b: tirx.min(a, b), highest)


def maximum(axis: Any, value: Any) -> Any:
    """The largest `value` over reduction axes."""
    return te.comm_reducer(lambda a, b: tirx.max(a, b), lowest, name="maximum")(value, axis=axis)


def minimum(axis: Any, value: Any) -> Any:
    """The smallest `value` over reduction axes."""
    return te.comm_reducer(lambda a, b: tirx.min(a, b), highest, name="minimum")(value, axis=axis)


_REDUCERS: dict[str, Callable[[Any, Any], Any]] = {
    "reduce_sum": lambda axis, value: te.sum(value, axis=axis),
    "reduce_max": maximum,
    "reduce_min": minimum,
    "reduce_prod": product,
}


def reduction(
    x: te.Tensor,
    axes: tuple[int, ...],
    keepdims: bool,
    name: str,
    reduce: Callable[[list[te.IterVar], Any], Any],
) -> te.Tensor:
    """reduce(reduce axes, element of x) over `axes`."""
    shape = static_shape(x)
    inner = {a: te.reduce_axis((0, shape[a]), f"r{a}") for a in axes}
    kept = [a for a in range(len(shape)) if a not in inner]
    out = [1 if a in inner else d for a, d in enumerate(shape) if keepdims or a not in inner]

    def element(*index: Any) -> Any:
        at = dict(zip(range(len(shape)) if keepdims else kept, index, strict=True))
        value = x(*(inner.get(a, at.get(a)) for a in range(len(shape))))
        return reduce(list(inner.values()), value)

    return te.compute(out, element, name=name)


def _register(name: str, reduce: Callable[[Any, Any], Any]) -> None:
    def compute(x: te.Tensor, *, axes: tuple[int, ...], keepdims: bool) -> te.Tensor:
        return reduction(x, axes, keepdims, name, reduce)

    operator(name, Pattern.REDUCTION)(compute)


for _name, _reduce in _REDUCERS.items():
    _register(_name, _reduce)


@operator("reduce_mean", Pattern.REDUCTION)
def reduce_mean(x: te.Tensor, *, axes: tuple[int, ...], keepdims: bool) -> te.Tensor:
    """The mean over `axes` of a float tensor: one stage that sums x/n."""
    shape = static_shape(x)
    scale = tirx.const(1.0 / math.prod(shape[a] for a in axes), str(x.dtype))
    return reduction(x, axes, keepdims, "reduce_mean", lambda axis, v: te.sum(v * scale, axis=axis))


def arg_reducer(dtype: str, largest: bool, last: bool) -> Callable[..., Any]:
    """A reducer of (int64 index, value) pairs to the extreme value's first or last index."""

    def combine(a: Any, b: Any) -> Any:
        better = a[1] > b[1] if largest else a[1] < b[1]
        earlier = a[0] > b[0] if last else a[0] < b[0]
        keep = tirx.Or(better, tirx.And(a[1] == b[1], earlier))
        return tirx.Select(keep, a[0], b[0]), tirx.Select(keep, a[1], b[1])

    def start(index: str, value: str) -> Any:
        bound = lowest(value) if largest else highest(value)
        # loses against any candidate of an equal value
        return tirx.const(-1 if last else 2**62, index), bound

    return te.comm_reducer(combine, start, name="arg_reduce")


def _register_arg(name: str, largest: bool) -> None:
    def compute(x: te.Tensor, *, axis: int, keepdims: bool, last: bool) -> te.Tensor:
        shape = static_shape(x)
        reducer = arg_reducer(str(x.dtype), largest, last)
        inner = te.reduce_axis((0, shape[axis]), "r")
        out = [1 if a == axis else d for a, d in enumerate(shape) if keepdims or a != axis]

        def element(*index: Any) -> Any:
            rest = index[axis + 1 :] if keepdims else index[axis:]
            value = x(*index[:axis], inner, *rest)
            return reducer((tirx.Cast("int64", inner), value), axis=inner)

        pair = te.compute(out, element, name=name)
        return te.compute(out, lambda *i: pair[0](*i), name=f"{name}_index")

    operator(name, Pattern.OPAQUE)(compute)


_register_arg("argmax", True)
_register_arg("argmin", False)
