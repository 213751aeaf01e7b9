"""One measuring session: cases in, table and files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeconv.cli import output as out

if TYPE_CHECKING:
    from edgeconv.benchmarks.cases import CaseToRun
    from edgeconv.benchmarks.running import Method
    from edgeconv.benchmarks.tabulate import Table


def measure(
    programme: str,
    cases: Sequence[CaseToRun],
    method: Method,
    json_file: Path | None,
    csv_file: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """Measure, keep and show cases; (content of the result file, keys of these cases).

    Raises:
        EdgeconvError: a case can't be measured, or a file can't be written.
    """
    from edgeconv.benchmarks import running, tabulate
    from edgeconv.benchmarks.records import Records

    records = Records(json_file, programme, method.settings)
    with out.progress(f"measuring {out.plural(len(cases), 'case')}") as report:
        keys = running.run(
            records,
            cases,
            method,
            starting=lambda key, number: report(f"{number + 1} of {len(cases)}: {key}"),
        )
    content = records.content
    if csv_file is not None and csv_file != "-":
        with out.replacing(Path(csv_file)) as file:
            file.write(tabulate.to_csv(content, keys).encode())
    if csv_file == "-":
        out.text(tabulate.to_csv(content, keys))
    else:
        show(tabulate.overview(content, keys))
    explain(content, keys)
    return content, keys


def show(table: Table) -> None:
    """Print a table; on a narrow terminal the roofline goes first, then single engines."""
    columns = []
    for number, title in enumerate(table.titles):
        drop = {"MiB moved": 50, "GFLOP/s": 40, "% of peak": 30, "interval": 20}.get(title, 0)
        columns.append(out.Column(title, number=number > 0, drop=drop))
    out.table(columns, table.rows)


def explain(content: dict[str, Any], keys: Sequence[str]) -> None:
    """What a reader of the table must know: failures, noise, disturbed calls."""
    from edgeconv.benchmarks import noise, tabulate
    from edgeconv.benchmarks.peers import PEERS
    from edgeconv.benchmarks.summary import failures

    cases = {key: content["cases"][key] for key in keys}
    by_mode = {key: tabulate.measurements(case) for key, case in cases.items()}
    for (name, reason), found in failures(by_mode).items():
        where = found[0] if len(found) == 1 else f"{len(found)} cases"
        out.message("note", f"{PEERS[name].title} has no time for {where}: {reason}")
    noisy = {k: c["noise"] for k, c in cases.items() if c.get("noise", {}).get("noisy")}
    if noisy:
        worst = max(noisy, key=lambda key: noisy[key]["drift"])
        out.message(
            "warning",
            f"{len(noisy)} of {out.plural(len(cases), 'case')}: {noise.sentence(noisy[worst])}",
        )
    engines = [e for modes in by_mode.values() for found in modes.values() for e in found.values()]
    disturbed = sum(bool(e.get("disturbed")) for e in engines)
    if disturbed:
        out.message(
            "warning",
            f"{disturbed} of {len(engines)} times include calls during which another process took "
            "the core",
        )
