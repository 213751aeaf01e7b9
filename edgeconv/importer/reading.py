"""Reads ONNX models from files, bytes or protobuf objects into checked, self-contained ones."""

from __future__ import annotations

import os
import stat
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgeconv.errors import ModelError
from edgeconv.importer.check import check_model, clean_errors
from edgeconv.importer.external_data import load_external_data, tensors
from edgeconv.importer.limits import MAX_FILE_BYTES, OPSETS, all_graphs, quoted


def read_model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, *, opsets: range = OPSETS
) -> onnx.ModelProto:
    """Reads and checks a model; nothing is written anywhere, and `source` is not changed.

    Args:
        source: path of an ONNX file, its content, or a model object. External data is loaded
            only for paths, and only from inside the folder of the file.
        opsets: accepted versions of the default operator set.

    Returns:
        A new model that needs no other file: tensors hold raw data (strings excepted), and
        `value_info`, which may be stale, is dropped. It may exceed the 2 GiB that protobuf
        can serialise, if it had external data.

    Raises:
        ModelError: the file can't be read, or `check_model` finds a fault.
    """
    with clean_errors():
        folder: Path | None = None
        if isinstance(source, onnx.ModelProto):
            for _ in all_graphs(source.graph):  # raises if too deep to copy
                pass
            model = onnx.ModelProto()
            model.CopyFrom(source)
        elif isinstance(source, bytes):
            model = _parse(source, "the given bytes")
        elif isinstance(source, (str, os.PathLike)):
            path = Path(source)
            model = _parse(_content(path), quoted(str(path)))
            folder = path.parent
        else:
            raise ModelError(
                f"a model is a path, bytes or onnx.ModelProto, not {type(source).__name__}"
            )
        model = _inline_functions(model)
        load_external_data(model, folder)
        check_model(model, opsets=opsets)
        for what, tensor in tensors(model.graph):
            _to_raw(what, tensor)
        for graph in all_graphs(model.graph):
            graph.ClearField("value_info")
        return model


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions written out; ModelError if one calls itself."""
    if not model.functions:
        return model
    calls = {(f.domain, f.name): {(n.domain, n.op_type) for n in f.node} for f in model.functions}
    try:
        tuple(TopologicalSorter(calls).static_order())
    except CycleError as error:
        raise ModelError(f"function {quoted(error.args[1][0][1])} calls itself") from None
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # native code; any kind
        reason = str(error).strip().splitlines()[-1:] or ["unknown"]
        raise ModelError(f"the model's own functions can't be inlined: {reason[0]}") from error


def _content(path: Path) -> bytes:
    shown = quoted(str(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{shown} is a directory; give the .onnx file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{shown} is not a regular file")
        if status.st_size == 0:
            raise ModelError(f"{shown} is empty; is the download complete?")
        if status.st_size > MAX_FILE_BYTES:
            raise ModelError(
                f"{shown} has {status.st_size} bytes, but protobuf files end at 2 GiB; "
                "save the model with external data"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{shown} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{shown} cannot be read: {reason}") from None


def _parse(content: bytes, shown: str) -> onnx.ModelProto:
    if not content:
        raise ModelError(f"{shown}: empty, not an ONNX model")
    if len(content) > MAX_FILE_BYTES:
        raise ModelError(f"{shown}: {len(content)} bytes, but protobuf ends at 2 GiB")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(
            f"{shown} is not an ONNX model: it does not parse; is it complete and undamaged?"
        ) from None
    return model


def _to_raw(what: str, tensor: onnx.TensorProto) -> None:
    """Moves typed data into `raw_data`, in place."""
    if tensor.data_type == onnx.TensorProto.STRING or tensor.HasField("raw_data"):
        return
    try:
        array = onnx.numpy_helper.to_array(tensor)
        raw = onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(tensor.dims))
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{what}: its data cannot be read: {error}") from None
    name, data_type = tensor.name, tensor.data_type
    if raw.data_type != data_type:
        raise ModelError(f"{what}: its element type {data_type} cannot be read")
    tensor.CopyFrom(raw)
    tensor.name = name
