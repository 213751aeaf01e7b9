"""`edgeconv device …`: boards, their servers and trackers; one module a command."""

from __future__ import annotations

import typer

from edgeconv.cli import (
    device_add,
    device_check,
    device_detect,
    device_list,
    device_serve,
    device_tracker,
)

app = typer.Typer(
    help="Boards: lend one, find them, check them, name them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_COMMANDS = (
    device_serve,
    device_tracker,
    device_list,
    device_check,
    device_add,
    device_detect,
)
for _module in _COMMANDS:
    app.command(_module.__name__.rpartition("_")[2])(_module.command)
