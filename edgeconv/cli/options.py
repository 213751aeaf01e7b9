"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

MOST_THREADS = 1024

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
ModelOrArtifact = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL_OR_ARTIFACT", help="An ONNX file, or what `edgeconv compile` wrote."
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE",
        help="A device (`edgeconv targets` lists them), a TOML file, or host: this machine.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS,
        metavar="N",
        help="Threads the network runs on. Default: all cores of the target.",
        show_default=False,
    ),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Never use Winograd or Strassen products: slower, and rounds like the plain sum.",
    ),
]
NoRecords = Annotated[
    bool, typer.Option("--no-records", help="Default knobs only: no tuned ones (`edgeconv tune`).")
]
RecordFolder = Annotated[
    Path | None,
    typer.Option(
        "--records",
        metavar="DIR",
        help="Folder of tuned knobs, instead of your own in ~/.local/share/edgeconv/tuning.",
        show_default=False,
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=1x3x224x224",
        help="Fix the shape of an input with open dimensions; once for each input.",
        show_default=False,
    ),
]
DEVICE_FORMS = (
    "a name (`edgeconv device add`), rpc://HOST:PORT/KEY, rpc://HOST:PORT or ssh://USER@HOST"
)
OnDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        "-d",
        metavar="NAME|ADDRESS",
        help=f"Run on this board: {DEVICE_FORMS}. Default: this machine.",
        show_default=False,
    ),
]
DeviceName = Annotated[str, typer.Argument(metavar="DEVICE", help=f"The board: {DEVICE_FORMS}.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.1,
        max=86_400.0,
        metavar="S",
        help="Seconds the board may take for each answer.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


def numerics(exact: bool) -> Literal["fast", "exact"]:
    """What `--exact` means to the compiler."""
    return "exact" if exact else "fast"


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """{"data": (1, 3, 224, 224)} of ["data=1x3x224x224"].

    Raises:
        typer.BadParameter: not of that form, or a name twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or []:
        name, equals, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not equals or not name or not all(p.isascii() and p.isdigit() for p in parts):
            raise typer.BadParameter(
                f"'{text}' is not of the form NAME=1x3x224x224", param_hint="'--input-shape'"
            )
        if name in shapes:
            raise typer.BadParameter(f"'{name}' is given twice", param_hint="'--input-shape'")
        if any(len(p) > 10 or int(p) == 0 for p in parts):
            raise typer.BadParameter(
                f"'{text}': each size must be from 1 to 2147483647", param_hint="'--input-shape'"
            )
        shapes[name] = tuple(int(p) for p in parts)
    return shapes
