"""`edgeconv device list`: named boards, and the boards behind trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
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


@dataclass(frozen=True)
class Named:
    """A name that `edgeconv device add` gave.

    `state` is "free", "busy", "no answer", or empty for what stands in the tracker's table.
    """

    name: str
    address: str
    state: str
    model: str
    targets: tuple[str, ...]


@guarded
def command(
    tracker: Tracker = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List named boards, and those behind trackers.

    Names are those `edgeconv device add` gave. Boards that are free are asked what they are;
    "Targets" are those that fit.

    \b
    Example:
      edgeconv device list
      edgeconv device list --tracker 192.168.1.10:9190
    """
    from edgeconv.device.address import TRACKER_PORT, Address, known
    from edgeconv.device.serving import host_and_port
    from edgeconv.errors import DeviceError

    names = known()
    default = ("127.0.0.1", TRACKER_PORT)
    used = [(a.host, a.port) for a in names.values() if a.key]
    trackers = [host_and_port(tracker)] if tracker else list(dict.fromkeys([*used, default]))
    named: list[Named] = []
    rows: list[Row] = []
    faults: dict[str, str] = {}
    with out.progress("asking") as report:
        for name, address in names.items() if tracker is None else ():
            report(f"asking {name}")
            named.append(_named(name, address, timeout, faults))
        for host, port in trackers:
            report(f"asking the tracker at {host}:{port}")
            try:
                rows += _rows(Address("rpc", host, port), timeout, faults)
            except DeviceError as error:
                if tracker is not None:
                    raise
                if (host, port) in used:
                    faults[f"{host}:{port}"] = str(error)
    if as_json:
        boards = [vars(row) for row in rows]
        names_found = {n.name: {k: v for k, v in vars(n).items() if k != "name"} for n in named}
        out.write_json({"names": names_found, "boards": boards, "faults": faults})
        return
    _print(named, rows, "" if tracker is None else f"{trackers[0][0]}:{trackers[0][1]}")
    for fault in faults.values():
        out.message("warning", fault)


def _named(name: str, address: Any, timeout: float, faults: dict[str, str]) -> Named:
    """A named board; those behind trackers are not asked here. Why one fails goes to `faults`."""
    from edgeconv.device import session
    from edgeconv.errors import DeviceError

    state, model, targets = "", "", tuple[str, ...]()
    if not address.key:
        try:
            with session(address, timeout, wait=False) as board:
                state, model = "free", board.info.model
                targets = tuple(board.info.profiles())
        except DeviceError as error:
            state = "busy" if error.kind == "busy" else "no answer"
            if state != "busy":
                faults[name] = str(error)
    return Named(name, str(address), state, model, targets)


def _rows(address: Any, timeout: float, faults: dict[str, str]) -> list[Row]:
    """The keys of a tracker; why a free board can't be asked goes to `faults`."""
    from dataclasses import replace

    from edgeconv.device import session
    from edgeconv.device.lending import groups
    from edgeconv.errors import DeviceError

    rows = []
    place = f"{address.host}:{address.port}"
    for group in groups(address, timeout):
        model, targets = "", tuple[str, ...]()
        if group.free:
            try:
                with session(replace(address, key=group.key), timeout) as board:
                    model, targets = board.info.model, tuple(board.info.profiles())
            except DeviceError as error:
                faults[f"{place}/{group.key}"] = str(error)
        rows.append(Row(place, group.key, group.boards, group.free, group.waiting, model, targets))
    return rows


def _print(named: list[Named], rows: list[Row], tracker: str) -> None:
    if named:
        columns = [out.Column(t) for t in ("Name", "Address", "State")]
        columns += [out.Column(t, wrap=True) for t in ("Model", "Targets")]
        out.table(
            columns, [(n.name, n.address, n.state, n.model, ", ".join(n.targets)) for n in named]
        )
    if named and rows:
        out.line()
    if rows:
        columns = [
            out.Column("Key"),
            out.Column("Boards", number=True),
            out.Column("Free", number=True),
            out.Column("Waiting", number=True, drop=3),
            out.Column("Tracker", drop=1),
            out.Column("Model", wrap=True),
            out.Column("Targets", wrap=True),
        ]
        lines = [
            (r.key, len(r.boards), r.free, r.waiting, r.tracker, r.model, ", ".join(r.targets))
            for r in rows
        ]
        out.table(columns, lines)
    if tracker and not rows:
        out.line(
            f"no board is registered there: on the board, `edgeconv device serve --tracker "
            f"{tracker} --key NAME` does so"
        )
    elif not named and not rows:
        out.line(
            "no board is known: `edgeconv device add NAME ADDRESS` names one, --tracker asks a "
            "tracker (docs/devices.md)"
        )
