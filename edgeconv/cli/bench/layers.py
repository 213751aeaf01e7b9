"""`edgeconv bench layers`: single convolutions, as shapes or from files."""

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
)
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Timeout

Shapes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SHAPE]...", help='Such as "64x56x56->64 k3 p1 g8".'),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--shapes",
        metavar="FILE|NETWORK",
        help="A file with a shape a line, or a network such as mobilenetv2; may be repeated.",
        show_default=False,
    ),
]


@guarded
def command(
    shapes: Shapes = None,
    files: Files = None,
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
    """Measure convolutions one by one.

    A shape is CHANNELSxHEIGHTxWIDTH->CHANNELS, kernel k, stride s, padding p, dilation d, groups g;
    what is left out is 1, padding 0.

    \b
    Example:
      edgeconv bench layers "64x56x56->64 k3 p1 g8" "2*32x14x14->64 k1"
      edgeconv bench layers --shapes mobilenetv2 --engines tflite
    """
    thread_counts = numbers(threads, "--threads")
    if not shapes and not files:
        raise typer.BadParameter("give shapes, or --shapes FILE", param_hint="'[SHAPE]...'")
    check_outputs(json_file, csv_file)
    with out.progress("loading"):
        from edgeconv.benchmarks import cases, random_layers
        from edgeconv.benchmarks import shapes as shape_files
        from edgeconv.workload import Conv2d

        convolutions = [Conv2d.parse(text) for text in shapes or []]
        for name in files or []:
            convolutions += shape_files.read(shape_files.find(name))
        if chain and shapes is None:
            convolutions = [c for c in convolutions if random_layers.chainable(c)]
        mode: cases.Mode = "chain" if chain else "alone"
        unique = dict.fromkeys(convolutions)
        found = [cases.of_layer(c, t, mode) for c in unique for t in thread_counts]
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
    session.measure("layers", found, how, json_file, csv_file)
