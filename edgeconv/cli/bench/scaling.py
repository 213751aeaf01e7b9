"""`edgeconv bench scaling`: a layer by threads, channels and map size."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.bench import session
from edgeconv.cli.bench.groups import Batch, Dilation, Kernel, Stride
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
    Trials,
    check_outputs,
    method,
    numbers,
)
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Timeout

Threads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="N,N",
        help="Thread counts; the first is that of the other axes. Default: 1 and all "
        "cores, on a --device 1.",
        show_default=False,
    ),
]
Channels = Annotated[str, typer.Option("--channels", metavar="N,N", help="Channels.")]
Sizes = Annotated[str, typer.Option("--size", metavar="N,N", help="Rows and columns.")]
Groups = Annotated[int, typer.Option("--groups", min=1, metavar="N", help="Groups of the base.")]
BaseChannels = Annotated[
    int, typer.Option("--base-channels", min=1, metavar="N", help="Channels on the other axes.")
]
BaseSize = Annotated[
    int, typer.Option("--base-size", min=1, metavar="N", help="Map size on the other axes.")
]


@guarded
def command(
    threads: Threads = None,
    channels: Channels = "32,64,128,256,512",
    size: Sizes = "7,14,28,56,112",
    base_channels: BaseChannels = 128,
    base_size: BaseSize = 28,
    kernel: Kernel = 3,
    groups: Groups = 8,
    stride: Stride = 1,
    dilation: Dilation = 1,
    batch: Batch = 1,
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
    """Measure a layer by threads, channels and map size.

    One axis at a time. With several groups, the channels a group stay as in the base layer.

    \b
    Example:
      edgeconv bench scaling --groups 8 --threads 1,2,4
    """
    widths, sizes = numbers(channels, "--channels"), numbers(size, "--size")
    check_outputs(json_file, csv_file)
    with out.progress("loading"):
        from edgeconv.benchmarks import cases
        from edgeconv.targets import host

        cores = host().cores
        counts = [1, *([cores] if cores > 1 and device is None else [])]
        if threads is not None:
            counts = numbers(threads, "--threads")
        base = cases.Square(base_channels, base_size, kernel, stride, dilation, batch, groups)
        found = list(cases.scaling(base, counts, widths, sizes))
        how = method(
            engines=engines,
            threads=counts,
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
    session.measure("scaling", found, how, json_file, csv_file)
