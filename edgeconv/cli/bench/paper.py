"""`edgeconv bench paper`: a paper's claim beside what is measured here."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.bench import session
from edgeconv.cli.bench.options import (
    Engines,
    JsonFile,
    Limit,
    Lock,
    Rounds,
    Seconds,
    Strict,
    ThreadList,
    check_outputs,
    method,
    numbers,
)
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose

Name = Annotated[str, typer.Argument(metavar="gspc|bsconv|ddc|scc", help="Which table.")]


@guarded
def command(
    name: Name,
    threads: ThreadList = "1",
    engines: Engines = None,
    rounds: Rounds = 50,
    seconds: Seconds = None,
    json_file: JsonFile = None,
    strict: Strict = False,
    limit: Limit = 300.0,
    lock: Lock = None,
    verbose: Verbose = False,
) -> None:
    """Show a paper's claim beside what is measured here.

    gspc: grouped convolutions; bsconv: blueprint separable; ddc: dilated depthwise branches; scc:
    sliding channels. Without --engines: those of the table.

    \b
    Example:
      edgeconv bench paper gspc --json paper_gspc.json
    """
    thread_counts = numbers(threads, "--threads")
    check_outputs(json_file, None)
    with out.progress("loading"):
        from edgeconv.benchmarks import paper

        if name not in paper.TABLES:
            raise typer.BadParameter(
                f"no table '{name}'; there are {', '.join(paper.TABLES)}", param_hint="'NAME'"
            )
        table = paper.TABLES[name]
        cases, missing = paper.choose(table, thread_counts)
        how = method(
            engines=engines or ",".join(table.engines),
            threads=thread_counts,
            target="host",
            rounds=rounds,
            seconds=seconds,
            strict=strict,
            limit=limit,
            lock=lock,
        )
    if missing:
        out.message("note", f"skipped, no such networks here: {', '.join(missing)}")
    content, _ = session.measure(table.programme, cases, how, json_file, None)
    out.line()
    out.line(table.title, style="bold")
    out.line(f"claimed   {table.claim}")
    out.line(f"measured  {paper.verdict(content)}")
    session.show(paper.tabulate(content))
