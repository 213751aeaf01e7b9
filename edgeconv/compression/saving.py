"""Writes ONNX files, whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from edgeconv.errors import EdgeconvError
from edgeconv.importer.limits import MAX_FILE_BYTES

_SMALL = 1024  # bytes; such weights stay in the model, where shape inference sees them


def external_files(path: Path) -> tuple[Path, ...]:
    """Files with weights that an ONNX file, which has been read before, refers to."""
    model = onnx.load(path, load_external_data=False)
    entries = (e for t in model.graph.initializer for e in t.external_data if e.key == "location")
    return tuple(path.parent / location for location in dict.fromkeys(e.value for e in entries))


def save(model: onnx.ModelProto, path: Path, external: bool, sources: Sequence[Path] = ()) -> Path:
    """Write a model; weights go into `path` + ".data" if `external`, or if they must.

    Raises:
        EdgeconvError: it can't be written, or the weights would replace one of `sources`.
    """
    path = path.resolve()  # a link stays a link, to a new file
    size = sum(len(t.raw_data) for t in model.graph.initializer)
    external = external or size > MAX_FILE_BYTES // 2
    data = path.with_name(f"{path.name}.data")
    for source in sources:
        with contextlib.suppress(OSError):
            if path.samefile(source) or (external and data.samefile(source)):
                raise EdgeconvError(f"can't write {path}: it holds the source's weights")
    written: list[tuple[Path, Path]] = []
    try:
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name:
                folder = Path(name)
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                if external:
                    onnx.save(
                        copy,
                        folder / path.name,
                        save_as_external_data=True,
                        all_tensors_to_one_file=True,
                        location=data.name,
                        size_threshold=_SMALL,
                    )
                else:
                    onnx.save(copy, folder / path.name)
                onnx.checker.check_model(str(folder / path.name))
                if (folder / data.name).exists():
                    written.append((folder / data.name, data))
                written.append((folder / path.name, path))
                for temporary, final in written:
                    temporary.chmod(0o644)
                    temporary.replace(final)
        except OSError as error:
            raise EdgeconvError(f"can't write {path}: {error.strerror or error}") from error
    except onnx.checker.ValidationError as error:
        raise EdgeconvError(f"the compressed model is not valid ONNX: {error}") from error
    return path
