"""Checks constant tensors: known element type, sizes in range, exactly the data the shape needs."""

from __future__ import annotations

from typing import Final

from onnx import TensorProto, helper

from edgeconv.errors import ModelError
from edgeconv.importer.limits import element_count

_DATA_FIELDS: Final = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)
_PACKED: Final = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_NOT_YET: Final = {"UNDEFINED", "FLOAT6E2M3", "FLOAT6E3M2"}
_NAMES: Final = {t: TensorProto.DataType.Name(t) for t in helper.get_all_tensor_dtypes()}
ELEMENT_TYPES: Final = frozenset(t for t, name in _NAMES.items() if name not in _NOT_YET)
_COMPLEX: Final = frozenset({TensorProto.COMPLEX64, TensorProto.COMPLEX128})
_BITS: Final = {t: _PACKED[name] for t, name in _NAMES.items() if name in _PACKED}
"""Element types packed several to a byte, and their bits."""


def byte_count(what: str, tensor: TensorProto) -> int:
    """Bytes of raw data that the shape and element type of `tensor` need.

    Raises:
        ModelError: unknown element type, strings (which have no raw form), or a bad shape.
    """
    count = element_count(tensor.dims, what)
    check_element_type(what, tensor.data_type)
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"{what}: tensors of strings have no raw data")
    bits = _BITS.get(tensor.data_type)
    if bits is not None:
        return (count * bits + 7) // 8
    size = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    if count * size > 2**31 - 1:
        raise ModelError(f"{what}: shape {list(tensor.dims)} needs more than 2 GiB")
    return count * size


def check_element_type(what: str, data_type: int) -> None:
    """Raises ModelError if `data_type` is not an element type of ONNX."""
    if data_type not in ELEMENT_TYPES:
        raise ModelError(f"{what}: unknown element type {data_type}")


def check_tensor(what: str, tensor: TensorProto) -> None:
    """Checks that the data inside `tensor` is what its shape and element type say.

    Raises:
        ModelError: naming `what` and the reason.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"{what}: its external data is not loaded; read the model from its path")
    if tensor.data_location != TensorProto.DEFAULT:
        raise ModelError(f"{what}: unknown data location {tensor.data_location}")
    if tensor.HasField("segment"):
        raise ModelError(f"{what}: tensors stored in segments are not supported")
    check_element_type(what, tensor.data_type)
    count = element_count(tensor.dims, what)
    lengths = {field: len(getattr(tensor, field)) for field in _DATA_FIELDS}
    used = [field for field, length in lengths.items() if length]
    has_raw = tensor.HasField("raw_data")
    if (has_raw and used) or len(used) > 1:
        raise ModelError(f"{what}: its data is stored twice, in {', '.join(used)} and elsewhere")
    shape = list(tensor.dims)
    if count and not has_raw and not used:
        raise ModelError(f"{what}: shape {shape}, but the file holds no data for it")
    if has_raw:
        expected, found = byte_count(what, tensor), len(tensor.raw_data)
        if expected != found:
            raise ModelError(f"{what}: shape {shape} needs {expected} bytes, but it has {found}")
    elif used:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        if used[0] != field:
            raise ModelError(
                f"{what}: its data is in {used[0]}, but its element type needs {field}"
            )
        expected = count * 2 if tensor.data_type in _COMPLEX else count
        bits = _BITS.get(tensor.data_type)
        if bits is not None:
            expected = (count * bits + 7) // 8
        if lengths[field] != expected:
            raise ModelError(
                f"{what}: shape {shape} needs {expected} values, but it has {lengths[field]}"
            )
