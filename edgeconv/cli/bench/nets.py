"""`edgeconv bench nets`: whole networks."""

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

Networks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NETWORK]...",
        help="Names (--list), or ONNX files. Default: shufflenet, squeezenet, resnet50.",
    ),
]
List = Annotated[bool, typer.Option("--list", help="Only list the networks that have names.")]
Layers = Annotated[bool, typer.Option("--layers", help="Also time edgeconv's layers, for reports.")]


@guarded
def command(
    networks: Networks = None,
    list_names: List = False,
    layers: Layers = False,
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
    """Measure whole networks, by name or from ONNX files.

    \b
    Example:
      edgeconv bench nets mobilenetv2 resnet34_g8 net.onnx --threads 1,2 --json nets.json
    """
    thread_counts = numbers(threads, "--threads")
    check_outputs(json_file, csv_file)
    with out.progress("loading"):
        from edgeconv.benchmarks import cases, nets
        from edgeconv.benchmarks import networks as known

        if list_names:
            out.text("\n".join(known.names()) + "\n")
            return
        names = networks or list(nets.DEFAULT)
        known.check(names)
        found = [cases.of_network(name, t) for t in thread_counts for name in names]
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
            profile=layers,
        )
    session.measure(nets.PROGRAMME, found, how, json_file, csv_file)
