"""`edgeconv device serve`: lends this machine."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose

Tracker = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        metavar="HOST:PORT",
        help="Register there; without, clients connect to this machine directly.",
        show_default=False,
    ),
]
Key = Annotated[
    str,
    typer.Option("--key", metavar="NAME", help="What the board is asked for as, such as rpi4."),
]
Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Where others can reach it; 0.0.0.0: everywhere. They can run programs then.",
    ),
]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, metavar="N", help="0: any that is free.")
]
Work = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="Where uploads lie during a session. Default: the system's temporary folder.",
        show_default=False,
    ),
]
Once = Annotated[bool, typer.Option("--once", help="End after the first session.")]


@guarded
def command(
    tracker: Tracker = None,
    key: Key = "",
    listen: Listen = "127.0.0.1",
    port: Port = 9090,
    work: Work = None,
    once: Once = False,
    verbose: Verbose = False,
) -> None:
    """Lend this machine to one client at a time.

    The client is edgeconv on another machine (`run --device`). Ends with Ctrl-C or SIGTERM.

    \b
    Example:
      edgeconv device serve
      edgeconv device serve --tracker 192.168.1.10:9190 --key rpi4 --listen 0.0.0.0
    """
    from edgeconv.device.serving import options, serve_here

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    serve_here(options(tracker, key, listen, port, None if work is None else str(work), once))
