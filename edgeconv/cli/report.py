"""`edgeconv report`: results as one page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.errors import EdgeconvError

Results = Annotated[
    list[Path],
    typer.Argument(metavar="RESULTS.json...", help="What `edgeconv bench --json` wrote."),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The page: .html, or .md for tables in Markdown."
    ),
]
Charts = Annotated[
    Path | None,
    typer.Option(
        "--charts",
        metavar="FOLDER",
        help="Also write every chart as an SVG file; Markdown shows them.",
        show_default=False,
    ),
]


@guarded
def command(
    results: Results,
    output: Output = Path("report.html"),
    charts: Charts = None,
    verbose: Verbose = False,
) -> None:
    """Make one self-contained page of benchmark results.

    Charts, tables that sort and download as CSV, method and environment; no network access.

    \b
    Example:
      edgeconv report benchmarks/results/*.json -o report.html
      edgeconv report benchmarks/results/*.json -o docs/performance.md --charts docs/charts
    """
    if output.suffix not in (".html", ".md"):
        raise typer.BadParameter(f"'{output}' ends in neither .html nor .md", param_hint="'-o'")
    out.check_output(output, results)
    if charts is not None:
        if charts.exists() and not charts.is_dir():
            raise EdgeconvError(f"can't write charts to {charts}: it is not a folder")
        out.check_output(charts / "chart.svg" if charts.is_dir() else charts)
    with out.progress("loading"):
        from edgeconv.benchmarks import page, report
        from edgeconv.benchmarks.records import read

        read_in = report.named({path: read(path) for path in results})
        contents = report.checked(read_in)
        drawn = [] if charts is None else page.draw_charts(contents)
        if output.suffix == ".md":
            folder = "" if charts is None else _from_folder_of(output, charts)
            text = report.markdown(contents, drawn, folder)
        else:
            text = page.write_page(contents)
        with out.replacing(output) as file:
            file.write(text.encode())
        if charts is not None:
            charts.mkdir(exist_ok=True)
            for chart in drawn:
                with out.replacing(charts / chart.file) as file:
                    file.write(chart.drawing.encode())
    for name in read_in.keys() - contents.keys():
        out.message("note", f"{name} holds no cases")
    out.line(f"written  {output} ({out.size(output.stat().st_size)})")
    if charts is not None:
        out.line(f"written  {charts} ({out.plural(len(drawn), 'chart')})")


def _from_folder_of(page: Path, folder: Path) -> str:
    """The folder as a link in the page names it."""
    return Path(os.path.relpath(folder.resolve(), page.resolve().parent)).as_posix()
