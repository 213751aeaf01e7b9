"""`edgeconv device detect`: a target file from a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import DeviceName, Timeout

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE.toml",
        help="The target file to write. Default: print it.",
        show_default=False,
    ),
]


@guarded
def command(
    device: DeviceName,
    output: Output = None,
    timeout: Timeout = 30.0,
    verbose: Verbose = False,
) -> None:
    """Write a target file for the CPU of a board.

    \b
    Example:
      edgeconv device detect rpi4 --output board.toml
      edgeconv compile net.onnx --target board.toml
    """
    if output is not None:
        if output.suffix != ".toml":
            raise typer.BadParameter(f"'{output}' doesn't end in .toml", param_hint="'--output'")
        out.check_output(output)
    with out.progress("loading") as report:
        from edgeconv.device import session
        from edgeconv.device.detect import detect, to_toml

        report(f"asking {device}")
        with session(device, timeout) as board:
            info = board.info
    text = to_toml(
        detect(info),
        f"{info.model or info.arch}, {info.system}. Written by `edgeconv device detect`: caches "
        "and clock as the kernel publishes them, fma_ports and load_ports by the name of the CPU.",
    )
    if output is None:
        print(text, end="")
        return
    with out.replacing(output) as file:
        file.write(text.encode())
    out.line(f"written  {output}")
