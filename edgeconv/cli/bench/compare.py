"""`edgeconv bench compare`: what changed between two result files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.bench import session
from edgeconv.cli.failures import FAILED, guarded
from edgeconv.cli.logs import Verbose
from edgeconv.errors import EdgeconvError

Old = Annotated[Path, typer.Argument(metavar="OLD.json", help="Results before.")]
New = Annotated[Path, typer.Argument(metavar="NEW.json", help="Results after.")]
Tolerance = Annotated[
    float, typer.Option("--tolerance", min=0.0, metavar="R", help="Changes up to this are noise.")
]


@guarded
def command(old: Old, new: New, tolerance: Tolerance = 0.1, verbose: Verbose = False) -> None:
    """Tell what became slower between two result files.

    Compares edgeconv's time over ONNX Runtime's of the same rounds. Slower: its 95 % interval is
    above 1, and the change is above the tolerance. Exit status 1 if anything is slower or fails.

    \b
    Example:
      edgeconv bench compare old.json new.json
    """
    with out.progress("comparing"):
        from edgeconv.benchmarks import compare
        from edgeconv.benchmarks.records import read

        changes = compare.compare(read(old), read(new), tolerance)
    common = [c for c in changes if c.verdict not in ("new", "gone")]
    session.show(compare.table(changes))
    shared = sum(c.old_ms is not None or c.new_ms is not None for c in common)
    if not shared:
        raise EdgeconvError("nothing to compare: the files have no case with times in common")
    regressions = [c for c in changes if c.is_regression]
    if regressions:
        out.message(
            "error", f"{len(regressions)} of {out.plural(shared, 'case')} slower or failing"
        )
        raise typer.Exit(FAILED)
