"""`edgeconv device check`: is a board what it should be?"""

from __future__ import annotations

from typing import Annotated

import typer

from edgeconv.checks import Check
from edgeconv.cli import output as out
from edgeconv.cli.doctor import conclude
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import DeviceName, Json, Timeout

CheckTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE",
        help="What networks will be compiled for. Default: what fits the board best.",
        show_default=False,
    ),
]


@guarded
def command(
    device: DeviceName,
    target: CheckTarget = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check a board, and say what to do.

    Versions on both sides, CPU features and cores beside those of the target, clock and throttling,
    a small convolution that is compiled, run there and verified, bandwidth. Exit status 1 if there
    is a fault; warnings don't count.

    \b
    Example:
      edgeconv device check rpi4
      edgeconv device check ssh://pi@raspberrypi.local --target raspberry-pi-4
    """
    checks: list[Check] = []
    with out.progress("loading") as report:
        from edgeconv import api, targets
        from edgeconv.device import session
        from edgeconv.device.check import check

        chosen = None if target is None else targets.load(target)
        report(f"connecting to {device}")
        with session(device, timeout) as board:
            report("checking")
            checks += check(
                board, chosen, lambda trial, d: api.compile_artifact(trial.model, d, threads=1)
            )
    conclude(checks, as_json, works="the board works", broken="the board does not work")
