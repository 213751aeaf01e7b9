"""Input tensors from .npz and .npy files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_HINT = "'--input'"


def split(text: str, hint: str = _HINT) -> tuple[str | None, Path]:
    """Name and path of "name=x.npy"; the name is None for a bare path.

    Raises:
        typer.BadParameter: the file is neither .npy nor .npz, or has a name that is no use.
    """
    name, equals, rest = text.rpartition("=")
    path = Path(rest)
    if equals and Path(text).exists():
        name, equals, path = "", "", Path(text)
    if path.suffix not in (".npy", ".npz"):
        raise typer.BadParameter(f"'{text}' ends in neither .npz nor .npy", param_hint=hint)
    if equals and (not name or path.suffix == ".npz"):
        raise typer.BadParameter(
            f"'{text}': give NAME=x.npy for one input, or x.npz with every name in it",
            param_hint=hint,
        )
    return (name or None), path


def read_inputs(
    texts: Sequence[str], names: Sequence[str], hint: str = _HINT
) -> dict[str, np.ndarray]:
    """The arrays that `--input` options (or others: `hint`) name, for a model with these inputs.

    Raises:
        typer.BadParameter: an option is malformed, or an input is given twice.
        InputError: a file is missing, or not what its ending says.
    """
    arrays: dict[str, np.ndarray] = {}
    for text in texts:
        name, path = split(text, hint)
        if path.suffix == ".npz":
            found = _read(path)
        else:
            if name is None and len(names) != 1:
                raise InputError(
                    f"{path} holds one tensor, the model has {len(names)} inputs "
                    f"({', '.join(names)}); say which: --input {names[0]}={path}"
                    if names
                    else f"{path} is of no use: the model has no inputs"
                )
            found = {name or names[0]: _read(path)[""]}
        for key, array in found.items():
            if key in arrays:
                raise typer.BadParameter(f"input '{key}' is given twice", param_hint=hint)
            arrays[key] = array
    return arrays


def _read(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name; under "" the one of a .npy file."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if path.suffix == ".npz":
                raise InputError(f"{path} is a .npy file; rename it, or save it with numpy.savez")
            return {"": loaded}
        with loaded:
            if path.suffix == ".npy":
                raise InputError(f"{path} is a .npz file; rename it")
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not a {path.suffix} file of plain numbers, or is damaged: {error}"
        ) from error
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from error
