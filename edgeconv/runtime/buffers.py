"""Aligned arrays, and arrays from whatever a caller has."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi

from edgeconv.artifact import TensorSpec
from edgeconv.errors import InputError
from edgeconv.memory import aligned_bytes


def aligned(shape: tuple[int, ...], dtype: str, *, zero: bool = False) -> np.ndarray:
    """An array whose data starts at a multiple of 64 bytes; uninitialised unless `zero`."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    return aligned_bytes(size, zero=zero).view(kind).reshape(shape)


def as_array(value: Any, spec: TensorSpec) -> np.ndarray:
    """`value` (numpy, or any DLPack tensor on the CPU) as a contiguous array; no copy if it can be
    helped.

    Raises:
        InputError: it does not fit the input's shape or type.
    """
    if isinstance(value, np.ndarray):
        array = value
    elif hasattr(value, "__dlpack__"):
        try:
            array = np.from_dlpack(value)
        except Exception as error:  # each framework raises its own kind
            raise InputError(f"input '{spec.name}': can't read the tensor: {error}") from error
    else:
        try:
            array = np.asarray(value)
        except Exception as error:  # ragged lists, and objects with an __array__ of their own
            raise InputError(f"input '{spec.name}': not an array: {error}") from error
        if array.dtype.kind in "fiub" and array.dtype != spec.dtype:
            array = array.astype(spec.dtype)  # lists and numbers have no type of their own
    if array.shape != spec.shape:
        raise InputError(
            f"input '{spec.name}' has shape {list(array.shape)}, the model wants {list(spec.shape)}"
        )
    if array.dtype != spec.dtype:
        raise InputError(
            f"input '{spec.name}' is {array.dtype}, the model wants {spec.dtype}; convert it first"
        )
    if not array.flags.c_contiguous or not array.flags.writeable or not array.dtype.isnative:
        array = np.array(array, dtype=spec.dtype, order="C")  # DLPack can't express these
    return array


def as_tensor(array: np.ndarray) -> Any:
    """The array as native code takes it, not copied; one element stands in for an empty one."""
    return tvm_ffi.from_dlpack(array if array.size else np.zeros(1, array.dtype))
