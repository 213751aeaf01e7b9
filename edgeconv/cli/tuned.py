"""Tuned records for commands: found, and what is wrong with them said on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeconv.cli import output as out

if TYPE_CHECKING:
    from edgeconv.targets import Device
    from edgeconv.tuning.records import Records


def check(no_records: bool, folder: Path | None) -> None:
    """Refuse options that contradict each other.

    Raises:
        typer.BadParameter: they do, or the folder does not exist.
    """
    if folder is None:
        return
    if no_records:
        raise typer.BadParameter("not with --no-records", param_hint="'--records'")
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder", param_hint="'--records'")


def find(device: Device, no_records: bool, folder: Path | None) -> Records | None:
    """The records that `compile` and `explain` use."""
    from edgeconv import api

    return api.find_records(device, False if no_records else True if folder is None else folder)


def warn(records: Records | None) -> None:
    """Say which lines were skipped, and that records are out of date."""
    if records is None:
        return
    for fault in records.faults:
        out.message("warning", str(fault))
    if records.outdated:
        count = out.plural(len(records.outdated), "record")
        out.message(
            "note",
            f"{count} for this network made by other versions of the schedules or TVM: not used; "
            "`edgeconv tune` makes new ones",
        )
