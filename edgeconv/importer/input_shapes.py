"""Fixes the shapes of a model's inputs at import."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from edgeconv.errors import InputError, ModelError
from edgeconv.importer.folding import supported_dtype
from edgeconv.importer.limits import MAX_SIZE

InputType = tuple[tuple[int, ...], str]


def _check_form(input_shapes: object) -> None:
    """InputError unless it is a mapping from names to sequences of whole numbers."""
    wanted = 'a mapping such as {"input": (1, 3, 224, 224)}'
    if not isinstance(input_shapes, Mapping):
        raise InputError(f"input_shapes is {wanted}, not {type(input_shapes).__name__}")
    for name, shape in input_shapes.items():
        sizes = None if isinstance(shape, str) or not isinstance(shape, Iterable) else list(shape)
        if sizes is None or not all(isinstance(d, (int, np.integer)) for d in sizes):
            raise InputError(f"input_shapes is {wanted}; '{name}' has {shape!r}")


def resolve_inputs(
    graph: onnx.GraphProto,
    constants: Mapping[str, np.ndarray],
    input_shapes: Mapping[str, Sequence[int]],
) -> dict[str, InputType]:
    """Shape and element type of each input that is not a constant, in the model's order.

    A dimension that has a name in the model takes the same size everywhere.

    Raises:
        InputError: `input_shapes` names no input, contradicts the model, or leaves a size open.
        ModelError: an input is not a tensor of a type edgeconv computes with.
    """
    _check_form(input_shapes)
    initialisers = {t.name for t in graph.initializer}
    free = [i for i in graph.input if i.name not in initialisers]
    names = [i.name for i in free]
    for name in [*input_shapes, *constants]:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(names)}"
            raise InputError(f"the model has no input '{name}'{hint}")
    declared = {i.name: _declared(i) for i in free if i.name not in constants}
    sizes: dict[str, int] = {}
    result: dict[str, InputType] = {}
    for name, (dims, _) in declared.items():
        if name in input_shapes:
            _bind(name, dims, tuple(input_shapes[name]), sizes)
    missing: dict[str, list[int | str | None]] = {}
    for name, (dims, dtype) in declared.items():
        if name in input_shapes:
            shape: list[int | str | None] = [int(d) for d in input_shapes[name]]
        elif dims is None:
            raise InputError(
                f"input '{name}' has no declared shape; pass input_shapes={{'{name}': (…)}}"
            )
        else:
            shape = [sizes.get(d, d) if isinstance(d, str) else d for d in dims]
        if all(isinstance(d, int) for d in shape):
            result[name] = (tuple(d for d in shape if isinstance(d, int)), dtype)
        else:
            missing[name] = shape
    if missing:
        raise InputError(_advice(missing))
    return result


def _declared(value: onnx.ValueInfoProto) -> tuple[list[int | str | None] | None, str]:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "untyped value"
        raise ModelError(f"input '{value.name}' is a {kind}, not a tensor")
    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError):
        dtype = ""
    if not supported_dtype(dtype):
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(f"input '{value.name}' has elements of type {kind}: not supported")
    if not tensor.HasField("shape"):
        return None, dtype
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(int(dim.dim_value))
        else:
            dims.append(dim.dim_param or None)
    return dims, dtype


def _bind(
    name: str,
    dims: list[int | str | None] | None,
    shape: tuple[int, ...],
    sizes: dict[str, int],
) -> None:
    """Check `shape` against the declared `dims`, and note the sizes of named dimensions."""
    if any(int(d) != d or not 0 <= int(d) <= MAX_SIZE for d in shape):
        raise InputError(f"input '{name}': {list(shape)} is not a shape")
    if dims is None:
        return
    if len(dims) != len(shape):
        raise InputError(
            f"input '{name}' has {len(dims)} dimensions {_shown(dims)}, not {len(shape)}"
        )
    for index, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise InputError(
                f"input '{name}': dimension {index} is {dim} in the model, not {size} "
                f"(its shape is {_shown(dims)})"
            )
        if isinstance(dim, str) and sizes.setdefault(dim, int(size)) != size:
            raise InputError(
                f"input '{name}': dimension {index}, called '{dim}', is {size} here and "
                f"{sizes[dim]} elsewhere"
            )


def _shown(dims: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"


def _advice(missing: Mapping[str, Sequence[int | str | None]]) -> str:
    """What to pass: a batch of one, and names where only the user knows."""
    lines, parts = [], []
    for name, dims in missing.items():
        lines.append(f"input '{name}' has shape {_shown(dims)}")
        shown = [
            str(d) if isinstance(d, int) else "1" if i == 0 else f"<{d or f'size {i}'}>"
            for i, d in enumerate(dims)
        ]
        parts.append(f"'{name}': ({', '.join(shown)}{',' if len(shown) == 1 else ''})")
    return (
        "; ".join(lines)
        + ": sizes are fixed when the model is compiled. Pass input_shapes={"
        + ", ".join(parts)
        + "}"
    )
