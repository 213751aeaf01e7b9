"""`edgeconv device tracker`: where boards register and clients ask for them."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.device_serve import Listen
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose

Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, metavar="N", help="0: any that is free.")
]


@guarded
def command(listen: Listen = "127.0.0.1", port: Port = 9190, verbose: Verbose = False) -> None:
    """Run TVM's RPC tracker, for several boards.

    Boards register with it, clients take turns on them. Ends with Ctrl-C or SIGTERM.

    \b
    Example:
      edgeconv device tracker --listen 0.0.0.0
    """
    from edgeconv.device.listening import shown
    from edgeconv.device.serving import warn_if_exposed

    with out.progress("loading"):
        from edgeconv.device.tracker import serve_tracker

    def ready(number: int) -> None:
        warn_if_exposed(listen, number, tracker=True)
        print(f"listening at {shown(listen, number)}", flush=True)

    serve_tracker(listen, port, ready)
