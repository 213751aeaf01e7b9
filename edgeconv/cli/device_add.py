"""`edgeconv device add`: a name for a board."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose

Name = Annotated[str, typer.Argument(metavar="NAME", help="What --device will know it as.")]
Where = Annotated[
    str | None,
    typer.Argument(metavar="ADDRESS", help="rpc://HOST:PORT/KEY, rpc://HOST:PORT, ssh://…"),
]
Remove = Annotated[bool, typer.Option("--remove", help="Forget the name.")]


@guarded
def command(
    name: Name, address: Where = None, remove: Remove = False, verbose: Verbose = False
) -> None:
    """Name the address of a board, or forget a name.

    Names are kept in ~/.config/edgeconv/devices.toml.

    \b
    Example:
      edgeconv device add rpi4 rpc://127.0.0.1:9190/rpi4
      edgeconv device add desk ssh://pi@raspberrypi.local
      edgeconv device add desk --remove
    """
    from edgeconv.device.address import add, parse

    if remove == (address is not None):
        raise typer.BadParameter("give an address, or --remove", param_hint="'ADDRESS'")
    path = add(name, None if address is None else parse(address))
    out.line(f"{'removed' if remove else 'written'}  {path}")
