"""`edgeconv explain`: what each layer becomes on a target, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from edgeconv.cli import output as out
from edgeconv.cli import tuned
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import (
    Exact,
    InputShapes,
    Json,
    ModelFile,
    NoRecords,
    RecordFolder,
    Target,
    Threads,
    numerics,
    parse_shapes,
)
from edgeconv.cli.sources import require_onnx

if TYPE_CHECKING:
    from edgeconv.build import Layer


@guarded
def command(
    model: ModelFile,
    target: Target = "host",
    threads: Threads = None,
    exact: Exact = False,
    no_records: NoRecords = False,
    records: RecordFolder = None,
    input_shape: InputShapes = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what each layer becomes on a target, and why.

    Schedules with their knobs and reasons. Nothing is compiled, so the target need not be this
    machine.

    \b
    Example:
      edgeconv explain net.onnx --target jetson-nano --threads 4
    """
    shapes = parse_shapes(input_shape)
    require_onnx(model)
    tuned.check(no_records, records)
    with out.progress("loading the compiler") as report:
        from edgeconv import api

        device = api.resolve_target(target)
        count = device.cores if threads is None else threads
        report("choosing schedules")
        found = tuned.find(device, no_records, records)
        layers = api.explain(
            model,
            device,
            threads=count,
            input_shapes=shapes or None,
            numerics=numerics(exact),
            records=False if found is None else found,
        )
    tuned.warn(found)
    if as_json:
        rows = [{**asdict(layer), "refused": dict(_refused(layer))} for layer in layers]
        out.write_json({"target": asdict(device), "threads": count, "layers": rows})
        return
    out.line(
        f"{out.printable(model.name)} on {device.name} ({device.cpu}, {device.lanes} lanes), "
        f"{out.plural(count, 'thread')}",
        style="bold",
    )
    refused = any(_refused(layer) for layer in layers)
    columns = [
        out.Column("#", number=True),
        out.Column("Layer"),
        out.Column("Operator"),
        out.Column("Shapes"),
        out.Column("MMAC", number=True),
        out.Column("Schedule", below=True),
        out.Column("Knobs", below=True),
        out.Column("Why", below=True),
        *([out.Column("Refused", below=True)] * refused),
    ]
    rows_shown = []
    for number, layer in enumerate(layers, 1):
        row = [
            number,
            layer.name,
            layer.op,
            layer.workload,
            f"{layer.macs / 1e6:,.2f}" if layer.macs else "",
            layer.schedule,
            layer.knobs,
            layer.reason,
        ]
        if refused:
            row.append("; ".join(f"{name}: {why}" for name, why in _refused(layer)))
        rows_shown.append(row)
    out.table(columns, rows_shown)


def _refused(layer: Layer) -> tuple[tuple[str, str], ...]:
    """Families that can't take the layer, with their reasons; empty until `Layer` carries them."""
    return tuple(getattr(layer, "refused", ()))
