"""Weights in files beside the model: loads them, from inside the model's folder only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from edgeconv.errors import ModelError
from edgeconv.importer.check_tensors import byte_count
from edgeconv.importer.limits import MAX_WEIGHT_BYTES, all_graphs, node_label, quoted


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every dense tensor of a graph and its subgraphs, with what messages call it.

    Raises:
        ModelError: subgraphs nested too deep, or a name that is not UTF-8.
    """
    for current in all_graphs(graph):
        for initializer in current.initializer:
            yield f"weight {quoted(initializer.name)}", initializer
        for index, node in enumerate(current.node):
            label = node_label(node, index)
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield f"{label}: tensor in attribute {quoted(attribute.name)}", attribute.t
                for tensor in attribute.tensors:
                    yield f"{label}: tensor in attribute {quoted(attribute.name)}", tensor


def load_external_data(model: onnx.ModelProto, folder: Path | None) -> None:
    """Moves all external data into `model`, in place; `folder` None means it came without one.

    Raises:
        ModelError: there is external data but no folder; a location is absolute, leaves the
            folder, or is no file; an offset or length is outside its file or does not fit the
            tensor; all of it together exceeds `MAX_WEIGHT_BYTES`.
    """
    budget = MAX_WEIGHT_BYTES
    for what, tensor in tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if folder is None:
            raise ModelError(
                f"{what}: its data is in another file, which cannot be found from bytes or a "
                "ModelProto; give the path of the model, or load it with onnx.load first"
            )
        data = _read(what, tensor, folder, budget)
        budget -= len(data)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = data


def _read(what: str, tensor: onnx.TensorProto, folder: Path, budget: int) -> bytes:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        quoted(entry.key), quoted(entry.value)  # raises if not UTF-8
        if entry.key in entries:
            raise ModelError(f"{what}: external data has two entries {quoted(entry.key)}")
        entries[entry.key] = entry.value
    expected = byte_count(what, tensor)
    if expected > budget:
        raise ModelError(
            f"{what}: the external weights exceed {MAX_WEIGHT_BYTES} bytes together; "
            "edgeconv does not take models this big"
        )
    path = _inside(what, entries.get("location", ""), folder)
    offset = _number(what, "offset", entries.get("offset", "0"))
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = _number(what, "length", entries.get("length", str(max(size - offset, 0))))
            if offset + length > size:
                raise ModelError(
                    f"{what}: external data at offset {offset}, length {length}, is outside "
                    f"{quoted(path.name)}, which has {size} bytes; is the download complete?"
                )
            if length != expected:
                raise ModelError(
                    f"{what}: shape {list(tensor.dims)} needs {expected} bytes, "
                    f"but its external data has {length}"
                )
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        raise ModelError(
            f"{what}: external data {quoted(path.name)}: {error.strerror or error}"
        ) from None
    if len(data) != length:
        raise ModelError(f"{what}: external data {quoted(path.name)} changed while it was read")
    return data


def _inside(what: str, location: str, folder: Path) -> Path:
    """The file `location` means, which must be a regular file inside `folder`."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    shown = quoted(location)
    if not location or "\0" in location:
        raise ModelError(f"{what}: external data has no usable location ({shown})")
    if posix.is_absolute() or windows.drive or windows.root:
        raise ModelError(
            f"{what}: external data location {shown} is an absolute path; "
            "only files inside the model's folder are read"
        )
    if ".." in posix.parts or ".." in windows.parts:
        raise ModelError(
            f"{what}: external data location {shown} leaves the model's folder with '..'"
        )
    try:
        root = folder.resolve(strict=True)
        path = (root / location).resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ModelError(
            f"{what}: external data file {shown} is missing; put it beside the model"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be resolved"
        raise ModelError(f"{what}: external data location {shown}: {reason}") from None
    if not path.is_relative_to(root):
        raise ModelError(
            f"{what}: external data location {shown} is a link that leaves the model's folder; "
            "copy the file into the folder"
        )
    if not stat.S_ISREG(mode):
        raise ModelError(f"{what}: external data location {shown} is not a regular file")
    return path


def _number(what: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ModelError(
            f"{what}: external data {key} {quoted(text)} is not a non-negative whole number"
        )
    return int(text)
