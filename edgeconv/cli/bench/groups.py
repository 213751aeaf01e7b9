"""`edgeconv bench groups`: latency of a convolution by group count."""

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
    Mode,
    Rounds,
    Seconds,
    Strict,
    ThreadList,
    Trials,
    check_outputs,
    method,
    numbers,
    words,
)
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Timeout

MOST = 1 << 16

Channels = Annotated[
    str, typer.Option("--channels", metavar="N,N", help="Input and output channels.")
]
Size = Annotated[
    str,
    typer.Option(
        "--size", metavar="N,N", help="Rows and columns; one, or one for each --channels."
    ),
]
Groups = Annotated[
    str, typer.Option("--groups", metavar="N,N,dw", help="Group counts; dw: as many as channels.")
]
Kernel = Annotated[int, typer.Option("--kernel", min=1, max=MOST, metavar="N", help="Kernel size.")]
Stride = Annotated[int, typer.Option("--stride", min=1, max=MOST, metavar="N", help="Stride.")]
Dilation = Annotated[
    int, typer.Option("--dilation", min=1, max=MOST, metavar="N", help="Dilation.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, max=MOST, metavar="N", help="Images.")]


@guarded
def command(
    channels: Channels = "128",
    size: Size = "28",
    kernel: Kernel = 3,
    groups: Groups = "1,2,4,8,16,32,64,dw",
    stride: Stride = 1,
    dilation: Dilation = 1,
    batch: Batch = 1,
    threads: ThreadList = "1",
    chain: Mode = False,
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
    """Measure a convolution by its number of groups.

    \b
    Example:
      edgeconv bench groups --channels 128 --size 28 --groups 1,2,4,8,16,32,64,dw
      edgeconv bench groups --channels 64,128,256,512 --size 56,28,14,7 --json groups.json
    """
    widths, sizes = numbers(channels, "--channels"), _sizes(size)
    thread_counts = numbers(threads, "--threads")
    counts = words(groups)
    if not counts:
        raise typer.BadParameter("give numbers, or dw", param_hint="'--groups'")
    check_outputs(json_file, csv_file)
    with out.progress("loading"):
        from edgeconv.benchmarks import cases

        base = cases.Square(kernel=kernel, stride=stride, dilation=dilation, batch=batch)
        mode: cases.Mode = "chain" if chain else "alone"
        found, skipped = cases.groups(base, widths, sizes, counts, thread_counts, mode)
        how = method(
            engines=engines,
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
    if skipped:
        out.message("note", f"skipped, not divisible: {', '.join(skipped)}")
    session.measure("groups", found, how, json_file, csv_file)


def _sizes(text: str) -> list[int]:
    """Sizes in order; unlike other lists one may occur twice."""
    return [number for word in text.split(",") for number in numbers(word, "--size")]
