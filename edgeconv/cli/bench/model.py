"""`edgeconv bench model.onnx`: one network on all engines, and where edgeconv's time goes."""

from __future__ import annotations

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
from edgeconv.cli.options import InputShapes, ModelFile, Timeout, parse_shapes
from edgeconv.cli.sources import require_onnx


@guarded
def command(
    model: ModelFile,
    threads: ThreadList = "1",
    input_shape: InputShapes = None,
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
    """Measure an ONNX file, and edgeconv's layers.

    \b
    Example:
      edgeconv bench net.onnx --threads 1,4
    """
    thread_counts = numbers(threads, "--threads")
    shapes = parse_shapes(input_shape)
    require_onnx(model)
    check_outputs(json_file, csv_file)
    with out.progress("loading"):
        from edgeconv.benchmarks import cases, nets

        found = [cases.of_network(str(model), t, shapes) for t in thread_counts]
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
            profile=True,
        )
    content, keys = session.measure(nets.PROGRAMME, found, how, json_file, csv_file)
    if csv_file == "-":
        return
    for key in keys:
        rows = content["cases"][key].get("layers", [])
        if rows:
            out.line()
            out.line(f"edgeconv by layer, {key}", style="bold")
            out.table(
                [
                    out.Column("Layer"),
                    out.Column("Operator"),
                    out.Column("ms", number=True),
                    out.Column("%", number=True),
                    out.Column("GFLOP/s", number=True),
                    out.Column("% of peak", number=True),
                    out.Column("KiB moved", number=True, drop=1),
                    out.Column("Shapes", drop=2),
                ],
                [_row(row) for row in rows],
            )


def _row(row: dict[str, float | str]) -> list[str]:
    speed = float(row["gflops"])
    return [
        str(row["name"]),
        str(row["op"]),
        f"{float(row['ms']):.4f}",
        f"{100 * float(row['share']):.1f}",
        f"{speed:.1f}" if speed else "",
        f"{100 * float(row['peak']):.0f}" if speed else "",
        f"{float(row['bytes']) / 1024:,.0f}",
        str(row["workload"]),
    ]
