"""`edgeconv device list`: names, and the boards behind trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import FAILED, guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Json, Timeout

Tracker = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        metavar="HOST:PORT",
        help="Ask this one. Default: those of the known names, and the one on this machine.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Row:
    """A key of a tracker."""

    tracker: str
    key: str
    boards: tuple[str, ...]
    free: int
    waiting: int
    model: str
    targets: tuple[str, ...]


@guarded
def command(
    tracker: Tracker = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the boards behind trackers, and the names `edgeconv device add` gave.

    Boards that are free are asked what they are; "Targets" are those that fit.

    \b
    Example:
      edgeconv device list
      edgeconv device list --tracker 192.168.1.10:9190
    """
    from edgeconv.device.address import TRACKER_PORT, Address, known
    from edgeconv.device.serving import host_and_port
    from edgeconv.errors import DeviceError

    names = known()
    if tracker is not None:
        trackers = [host_and_port(tracker)]
    else:
        used = [(a.host, a.port) for a in names.values() if a.key]
        trackers = list(dict.fromkeys([*used, ("127.0.0.1", TRACKER_PORT)]))
    rows: list[Row] = []
    faults: dict[str, str] = {}
    with out.progress("asking") as report:
        for host, port in trackers:
            report(f"asking the tracker at {host}:{port}")
            try:
                rows += _rows(Address("rpc", host, port), timeout)
            except DeviceError as error:
                faults[f"{host}:{port}"] = str(error)
    asked_for = tracker is not None or len(trackers) > 1
    if as_json:
        listed = {name: str(address) for name, address in names.items()}
        out.write_json({"names": listed, "boards": [vars(row) for row in rows], "faults": faults})
    else:
        _print(rows, {name: str(address) for name, address in names.items()})
        for fault in faults.values():
            out.message("warning" if asked_for else "note", fault)
    if faults and not rows and tracker is not None:
        raise typer.Exit(FAILED)


def _rows(address: Any, timeout: float) -> list[Row]:
    from dataclasses import replace

    from edgeconv.device import session
    from edgeconv.device.lending import groups
    from edgeconv.errors import DeviceError

    rows = []
    for group in groups(address, timeout):
        model, targets = "", tuple[str, ...]()
        if group.free:
            try:
                with session(replace(address, key=group.key), timeout) as board:
                    model, targets = board.info.model, tuple(board.info.profiles())
            except DeviceError as error:
                model = f"({error})"
        place = f"{address.host}:{address.port}"
        rows.append(Row(place, group.key, group.boards, group.free, group.waiting, model, targets))
    return rows


def _print(rows: list[Row], names: dict[str, str]) -> None:
    if names:
        columns = [out.Column("Name"), out.Column("Address")]
        out.table(columns, list(names.items()))
        out.line()
    if not rows:
        out.line("no board is registered with a tracker")
        return
    out.table(
        [
            out.Column("Key"),
            out.Column("Boards", number=True),
            out.Column("Free", number=True),
            out.Column("Waiting", number=True, drop=3),
            out.Column("Tracker", drop=1),
            out.Column("Model", wrap=True),
            out.Column("Targets", wrap=True),
        ],
        [
            (r.key, len(r.boards), r.free, r.waiting, r.tracker, r.model, ", ".join(r.targets))
            for r in rows
        ],
    )
