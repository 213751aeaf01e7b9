"""`edgeconv profile`: where the time goes, layer by layer."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import (
    Exact,
    InputShapes,
    Json,
    ModelOrArtifact,
    OnDevice,
    Threads,
    Timeout,
)
from edgeconv.cli.run import RunTarget
from edgeconv.cli.sources import open_model, where

if TYPE_CHECKING:
    from edgeconv.runtime import ProfileRow


class Order(str, enum.Enum):
    """Orders of the rows."""

    network = "network"
    time = "time"
    peak = "peak"
    bytes = "bytes"


_KEYS: dict[Order, Callable[[ProfileRow], float]] = {
    Order.network: lambda row: 0,
    Order.time: lambda row: -row.ms,
    Order.peak: lambda row: row.peak if row.gflops else 2.0,
    Order.bytes: lambda row: -row.bytes,
}

Repeat = Annotated[
    int,
    typer.Option("--repeat", min=1, max=100_000, metavar="N", help="Runs; each row is the median."),
]
Sort = Annotated[
    Order,
    typer.Option(
        "--sort",
        metavar="[network|time|peak|bytes]",
        help="As in the network, slowest first, furthest from the peak first, or by traffic.",
    ),
]


@guarded
def command(
    model: ModelOrArtifact,
    repeat: Repeat = 30,
    sort: Sort = Order.network,
    target: RunTarget = None,
    threads: Threads = None,
    exact: Exact = False,
    input_shape: InputShapes = None,
    device: OnDevice = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Time every layer of a network on random inputs.

    "% of peak" compares with the multiply-add peak measured on the threads used; "KiB moved" is
    what the layer must read and write at least.

    \b
    Example:
      edgeconv profile net.edgeconv --sort time
    """
    with out.progress("loading") as report:
        net = open_model(model, target, threads, input_shape, exact, report, device, timeout)
        report(f"profiling {out.plural(repeat, 'run')}")
        profile = net.profile(repeat=repeat)
    flops = 2 * sum(layer.macs for layer in net.manifest.layers)
    gflops = flops / profile.total_ms / 1e6 if profile.total_ms else 0.0
    numbered = sorted(enumerate(profile.rows, 1), key=lambda item: _KEYS[sort](item[1]))
    if as_json:
        out.write_json(
            {
                "model": net.manifest.name,
                "target": net.target.name,
                "cpu": net.target.cpu,
                "threads": net.threads,
                "device": device,
                "peak_gflops": profile.peak_gflops,
                "total_ms": profile.total_ms,
                "total_gflops": gflops,
                "layers": [{"number": number, **asdict(row)} for number, row in numbered],
            }
        )
        return
    out.line(
        f"{out.printable(net.manifest.name)} on {where(net)}; "
        f"peak {profile.peak_gflops:.1f} GFLOP/s, measured",
        style="bold",
    )
    columns = [
        out.Column("#", number=True),
        out.Column("Layer"),
        out.Column("Operator", drop=1),
        out.Column("Shapes"),
        out.Column("ms", number=True),
        out.Column("% of time", number=True),
        out.Column("GFLOP/s", number=True),
        out.Column("% of peak", number=True),
        out.Column("KiB moved", number=True, drop=2),
        out.Column("Schedule", drop=3),
        out.Column("Knobs", drop=4),
    ]
    total: list[Any] = ["", "total", "", "", f"{profile.total_ms:.4f}", "100.0"]
    total += _speed(gflops, gflops / profile.peak_gflops)
    total += [f"{sum(r.bytes for r in profile.rows) / 1024:,.0f}", "", ""]
    out.table(columns, [_row(number, row) for number, row in numbered], total)


def _row(number: int, row: ProfileRow) -> list[Any]:
    return [
        number,
        row.name,
        row.op,
        row.workload,
        f"{row.ms:.4f}",
        f"{100 * row.share:.1f}",
        *_speed(row.gflops, row.peak),
        f"{row.bytes / 1024:,.0f}",
        row.schedule,
        row.knobs,
    ]


def _speed(gflops: float, peak: float) -> list[str]:
    return [f"{gflops:.1f}", f"{100 * peak:.0f}"] if gflops else ["", ""]
