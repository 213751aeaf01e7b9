"""`edgeconv records`: look at tuned records, check, merge and prune them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import FAILED, guarded
from edgeconv.cli.options import Json
from edgeconv.errors import EdgeconvError

if TYPE_CHECKING:
    from edgeconv.tuning.record import Fault
    from edgeconv.tuning.records import Stored

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Tuned records: list, merge, verify, renew, prune, export.",
)

Places = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PLACE]...",
        help="Folders of records, or single files. Default: your own and those shipped.",
    ),
]
Own = Annotated[
    Path | None,
    typer.Option(
        "--into", metavar="DIR", help="Default: your own folder of records.", show_default=False
    ),
]
FolderName = Annotated[
    str | None,
    typer.Option("--folder", metavar="NAME", help="Only records in this device's folder."),
]


@app.command("list")
@guarded
def list_command(places: Places = None, name: FolderName = None, as_json: Json = False) -> None:
    """Show records: workload, schedule, knobs, times, and whether this version uses them."""
    from edgeconv.tuning import records

    stored, faults = _read(places)
    stored = [s for s in stored if name in (None, s.record.folder)]
    if as_json:
        out.write_json(
            [
                {
                    **s.record.to_json(),
                    "speedup": s.record.speedup,
                    "current": records.is_current(s.record),
                    "file": str(s.path),
                    "line": s.line,
                }
                for s in stored
            ]
        )
    else:
        _table(stored)
    _warn(faults)


@app.command("verify")
@guarded
def verify(places: Places = None, as_json: Json = False) -> None:
    """Check every line: checksums, fields, knobs that are legal. Exit status 1 if one is damaged.

    Records that other versions of the schedules or TVM made are counted; they are not damaged.
    """
    from edgeconv.tuning import records
    from edgeconv.tuning.record import Fault

    stored, faults = _read(places)
    current = [s for s in stored if records.is_current(s.record)]
    for item in current:
        reason = records.illegal(item.record, records.device_of(item.record))
        if reason is not None:
            faults.append(Fault(item.path, item.line, reason))
    if as_json:
        out.write_json(
            {
                "records": len(stored),
                "current": len(current),
                "faults": [
                    {"file": str(f.path), "line": f.line, "reason": f.reason} for f in faults
                ],
            }
        )
    else:
        text = f"{out.plural(len(stored), 'record')}, {len(current):,} of this version"
        out.line(f"{text}; {out.plural(len(faults), 'fault')}")
        _warn(faults)
    if faults:
        raise typer.Exit(FAILED)


@app.command("merge")
@guarded
def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Folders of records, or files.")
    ],
    into: Own = None,
    as_json: Json = False,
) -> None:
    """Add the records of other folders to yours; those that are there already are not repeated.

    \b
    Example:
      edgeconv records merge /mnt/board1/records /mnt/board2/records --into tuning_logs
    """
    from edgeconv.tuning import records

    folder = records.user_folder() if into is None else into
    _require(sources)
    stored, faults = _read(sources)
    known = {s.record.checksum for s in _read([folder])[0]} if folder.exists() else set()
    added = _add([s for s in stored if s.record.checksum not in known], folder)
    _done("added", added, len(stored), folder, as_json)
    _warn(faults)


@app.command("export")
@guarded
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    name: FolderName = None,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="PLACE", help="Folders or files. Default: your own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the newest records that this version uses to a folder of their own, to ship them.

    \b
    Example:
      edgeconv records export board-records --folder raspberry-pi-4
    """
    from edgeconv.tuning import records

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EdgeconvError(f"{folder} is there already, and not empty")
    _require(source or [])
    stored, faults = _read(source or [records.user_folder()])
    chosen = [
        s
        for s in records.newest(stored)
        if name in (None, s.record.folder) and records.is_current(s.record)
    ]
    if not chosen:
        raise EdgeconvError("no records to export: none is newest, of this version and this device")
    _done("exported", _add(chosen, folder), len(stored), folder, as_json)
    _warn(faults)


@app.command("renew")
@guarded
def renew(into: Own = None, as_json: Json = False) -> None:
    """Keep records of other versions whose machine code is the same in this one.

    A record holds for the sources of its schedule. It also keeps a digest of its kernel's assembly:
    where this version generates the same, it is made one of this version. The others stay as they
    are. Each kernel is compiled, which takes about a second.
    """
    from edgeconv.tuning import lines, records, renewal

    folder = _own(into)
    count, faults = dict(current=0, renewed=0, outdated=0), []
    for path in records.files_in(folder):
        known, problem = lines.read_lines(path)
        if problem is not None:
            raise EdgeconvError(f"{path}: {problem}")
        changed = list(known)
        stored, wrong = records.parse(path, known)
        faults += wrong
        for item in stored:
            found = renewal.renewed(item.record)
            was_current = records.is_current(item.record)
            count["outdated" if found is None else "current" if was_current else "renewed"] += 1
            if found is not None and found != item.record:
                changed[item.line - 1] = found.to_line().encode()
        if changed != known:
            _rewrite(path, changed, known)
    if as_json:
        out.write_json({"folder": str(folder), **count})
    else:
        text = ", ".join(f"{number:,} {name}" for name, number in count.items())
        out.line(f"{folder}: {text}")
    _warn(faults)


@app.command("prune")
@guarded
def prune(into: Own = None, as_json: Json = False) -> None:
    """Remove what is no longer used: damaged lines, superseded records, those of other versions."""
    from edgeconv.tuning import lines, records
    from edgeconv.tuning.families import SCHEDULES

    folder = _own(into)
    if folder.exists() and not folder.is_dir():
        raise EdgeconvError(f"{folder} is not a folder")
    contents = {}
    for path in records.files_in(folder):
        known, problem = lines.read_lines(path)
        if problem is not None:
            raise EdgeconvError(f"{path}: {problem}")
        if known and path.stem not in SCHEDULES and not records.parse(path, known)[0]:
            out.message("warning", f"{path} holds no record and has no schedule's name: left alone")
        else:
            contents[path] = known
    stored = [s for path, known in contents.items() for s in records.parse(path, known)[0]]
    kept = [s for s in records.newest(stored) if records.is_current(s.record)]
    before = after = 0
    for path, known in contents.items():
        keep = [s.record.to_line().encode() for s in kept if s.path == path]
        _rewrite(path, keep, known)
        before, after = before + len(known), after + len(keep)
    if as_json:
        out.write_json({"folder": str(folder), "kept": after, "removed": before - after})
    else:
        out.line(f"{folder}: {out.plural(after, 'record')} kept, {before - after:,} lines removed")


def _read(places: list[Path] | None) -> tuple[list[Stored], list[Fault]]:
    from edgeconv.tuning import records

    _require(places or [])
    stored, faults = [], []
    for place in places or records.default_folders():
        for path in records.files_in(place):
            found, wrong = records.read_file(path)
            stored += found
            faults += wrong
    return stored, faults


def _own(into: Path | None) -> Path:
    """The folder that is named, which has to be there, or the user's, which need not."""
    from edgeconv.tuning import records

    if into is None:
        return records.user_folder()
    _require([into])
    return into


def _rewrite(path: Path, keep: list[bytes], known: list[bytes]) -> None:
    from edgeconv.tuning import lines

    try:
        lines.rewrite(path, keep, known)
    except OSError as error:
        raise EdgeconvError(f"can't write {path}: {error.strerror or error}") from error


def _require(places: list[Path]) -> None:
    for place in places:
        if not place.exists():
            raise EdgeconvError(f"{place} does not exist")


def _add(stored: list[Stored], folder: Path) -> int:
    from edgeconv.tuning import records

    seen: set[str] = set()
    for item in stored:
        if item.record.checksum not in seen:
            seen.add(item.record.checksum)
            records.append(folder, item.record)
    return len(seen)


def _table(stored: list[Stored]) -> None:
    from edgeconv.tuning import records

    columns = [
        out.Column("Device"),
        out.Column("Threads", number=True),
        out.Column("Workload"),
        out.Column("Schedule"),
        out.Column("Knobs", drop=3),
        out.Column("µs", number=True),
        out.Column("Speed-up", number=True),
        out.Column("Trials", number=True, drop=2),
        out.Column("Date", drop=1),
        out.Column("Used"),
    ]
    used = {id(s) for s in records.newest(stored)}
    rows: list[list[Any]] = []
    for item in stored:
        r = item.record
        state = "superseded" if id(item) not in used else "yes"
        row = [r.folder, r.threads, r.task.workload, r.family, _knobs(r.to_json()["knobs"])]
        row += [f"{r.median_us:,.1f}", f"{r.speedup:.2f}", r.trials, r.date[:10]]
        rows.append([*row, state if records.is_current(r) else "other version"])
    out.table(columns, rows)


def _knobs(values: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in values.items())


def _done(verb: str, count: int, read: int, folder: Path, as_json: bool) -> None:
    if as_json:
        out.write_json({"folder": str(folder), verb: count, "read": read})
    else:
        out.line(f"{folder}: {out.plural(count, 'record')} {verb}, {read:,} read")


def _warn(faults: list[Fault]) -> None:
    for fault in faults:
        out.message("warning", str(fault))
