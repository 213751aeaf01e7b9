"""`edgeconv bench paper`: a paper's claim beside what is measured here."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.bench import session
from edgeconv.cli.bench.options import (
    BenchDevice,
    BenchTarget,
    CsvFile,
    Engines,
    JsonFile,
    Limit,
    Lock,
    Rounds,
    Seconds,
    Strict,
    ThreadList,
    Trials,
    check_outputs,
    method,
    numbers,
)
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Timeout

Name = Annotated[str, typer.Argument(metavar="gspc|bsconv|ddc|scc", help="Which table.")]


@guarded
def command(
    name: Name,
    threads: ThreadList = "1",
    engines: Engines = None,
    target: BenchTarget = "host",
    device: BenchDevice = None,
    timeout: Timeout = 30.0,
    rounds: Rounds = 50,
    seconds: Seconds = None,
    json_file: JsonFile = None,
    csv_file: CsvFile = None,
    strict: Strict = False,
    limit: Limit = 300.0,
    trials: Trials = 64,
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
    check_outputs(json_file, csv_file)
    with out.progress("loading"):
        from edgeconv.benchmarks import paper

        if name not in paper.TABLES:
            raise typer.BadParameter(
                f"no table '{name}'; there are {', '.join(paper.TABLES)}", param_hint="'NAME'"
            )
        table = paper.TABLES[name]
        cases, missing = paper.choose(table, thread_counts)
        how = method(
            engines=engines or (",".join(table.engines) if device is None else None),
            threads=thread_counts,
            target=target,
            rounds=rounds,
            seconds=seconds,
            strict=strict,
            limit=limit,
            lock=lock,
            trials=trials,
            device=device,
            timeout=timeout,
        )
    if missing:
        out.message("note", f"skipped, no such networks here: {', '.join(missing)}")
    content, _ = session.measure(table.programme, cases, how, json_file, csv_file)
    if csv_file == "-":
        return
    out.line()
    out.line(table.title, style="bold")
    out.line(f"claimed   {table.claim}")
    out.line(f"measured  {paper.verdict(content)}")
    session.show(paper.tabulate(content))
