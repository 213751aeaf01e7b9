"""Models from the command line: an ONNX file is compiled, an artifact is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeconv.cli.options import numerics, parse_shapes
from edgeconv.cli.output import Report, message
from edgeconv.errors import EdgeconvError

if TYPE_CHECKING:
    from edgeconv.runtime import Model


def is_artifact(path: Path) -> bool:
    """Whether the file is (or claims to be) an artifact of edgeconv; everything else is ONNX.

    Raises:
        EdgeconvError: there is no such file, or it is a folder.
    """
    if path.is_dir():
        raise EdgeconvError(f"{path} is a folder; give a .onnx or .edgeconv file")
    if path.exists() and not path.is_file():
        raise EdgeconvError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04" or path.suffix == ".edgeconv"
    except FileNotFoundError:
        raise EdgeconvError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EdgeconvError(f"can't read {path}: {reason}") from None


def require_onnx(path: Path) -> None:
    """Refuse artifacts where an ONNX file is wanted.

    Raises:
        EdgeconvError: it is an artifact, there is no such file, or it is a folder.
    """
    if is_artifact(path):
        raise EdgeconvError(f"{path} is compiled already; give the ONNX file it was made from")


def open_model(
    path: Path,
    target: str | None,
    threads: int | None,
    input_shapes: Sequence[str] | None,
    exact: bool,
    report: Report,
    device: str | None = None,
    timeout: float = 30.0,
) -> Model:
    """The model in `path`, ready to run here, or on a board.

    Without target, what an ONNX file is compiled for is this machine, or what fits the board best;
    without threads, for as many as the target has cores, and the board lets its server use.

    Raises:
        typer.BadParameter: compile options for an artifact, or a malformed shape.
        EdgeconvError: it can't be opened, compiled, or run there.
    """
    shapes = parse_shapes(input_shapes)
    if is_artifact(path):
        given = {
            "--target": target,
            "--threads": threads,
            "--input-shape": input_shapes,
            "--exact": exact,
        }
        for option, value in given.items():
            if value:
                raise typer.BadParameter(
                    f"{path} is compiled already; this goes with ONNX files only",
                    param_hint=f"'{option}'",
                )
        report("loading")
        from edgeconv import api

        if device is not None:
            report(f"loading on {device}")
        return api.load(path, device, timeout=timeout)
    report("loading the compiler")
    from edgeconv import api

    if device is not None:
        from edgeconv.device import RemoteModel, session
        from edgeconv.device.detect import best_target

        board = session(device, timeout)
        try:
            chosen = best_target(board.info) if target is None else api.resolve_target(target)
            artifact = api.compile_artifact(
                path,
                chosen,
                threads=threads or min(chosen.cores, board.info.cores),
                input_shapes=shapes or None,
                numerics=numerics(exact),
                progress=report,
            )
            report(f"loading on {device}")
            return RemoteModel(artifact, board)
        except BaseException:
            board.close()
            raise

    return api.compile(
        path,
        target or "host",
        threads=threads,
        input_shapes=shapes or None,
        numerics=numerics(exact),
        progress=report,
    )


def where(model: Model) -> str:
    """On what a model runs: "host (znver4), 2 threads"."""
    count = model.threads
    text = f"{model.target.name} ({model.target.cpu}), {count} thread{'s' * (count != 1)}"
    info = getattr(model, "info", None)
    return text if info is None else f"{info.address}: {text}"


def is_emulated(model: Model) -> bool:
    """Whether an emulated board runs it, so that nothing can be timed; says so on stderr."""
    info = getattr(model, "info", None)
    if info is None or not info.emulated:
        return False
    message("note", f"no times: {info.address} is emulated")
    return True
