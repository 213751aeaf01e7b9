"""The command `edgeconv`, one module a command.

TVM takes seconds to load: modules here import it, and all that needs it, inside functions.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from edgeconv.cli import (
    bench,
    compile,
    compress,
    device,
    doctor,
    explain,
    inspect,
    profile,
    records,
    report,
    run,
    targets,
    tune,
)
from edgeconv.cli.logs import VERBOSE_HELP, be_verbose
from edgeconv.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgeconv",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (compile, run, inspect, explain, profile, compress, tune, targets, doctor):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)
app.add_typer(records.app, name="records")
app.add_typer(device.app, name="device")
app.add_typer(bench.app, name="bench")
app.command("report")(report.command)


def _version(value: bool) -> None:
    if value:
        print(f"edgeconv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help=VERBOSE_HELP)] = False,
) -> None:
    """Compile ONNX convolutional networks into fast native code for edge CPUs.

    \b
    Example:
      edgeconv compile net.onnx --target raspberry-pi-4 -o net.edgeconv
      edgeconv run net.onnx --threads 1

    Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    be_verbose(verbose)


def main() -> None:
    """Entry point of the console script."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.reconfigure(errors="replace")  # a name in the model must not end the program
    app(prog_name="edgeconv")
