"""`edgeconv run`: one inference, its outputs, and the latency."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.inputs import read_inputs, split
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
from edgeconv.cli.sources import is_emulated, open_model, where

if TYPE_CHECKING:
    import numpy as np

MOST_REPEATS = 1_000_000

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="x.npz|NAME=x.npy",
        help="Inputs by name; once for each file. Default: random ones from --seed.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, metavar="N", help="Seed of random inputs. Default: 0.", show_default=False
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE.npz", help="Write the outputs here.", show_default=False
    ),
]
RunTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE",
        help="What to compile an ONNX file for. Default: host, or what fits the --device.",
        show_default=False,
    ),
]
Repeat = Annotated[
    int,
    typer.Option("--repeat", min=0, max=MOST_REPEATS, metavar="N", help="Samples; 0: no timing."),
]
Warmup = Annotated[
    int, typer.Option("--warmup", min=0, max=MOST_REPEATS, metavar="N", help="Untimed runs before.")
]
MinRepeat = Annotated[
    float,
    typer.Option(
        "--min-repeat-ms", min=0.0, max=60_000.0, metavar="MS", help="Least time a sample."
    ),
]


@guarded
def command(
    model: ModelOrArtifact,
    inputs: Inputs = None,
    seed: Seed = None,
    output: Output = None,
    repeat: Repeat = 50,
    warmup: Warmup = 5,
    min_repeat_ms: MinRepeat = 2.0,
    target: RunTarget = None,
    threads: Threads = None,
    exact: Exact = False,
    input_shape: InputShapes = None,
    device: OnDevice = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a network, and measure its latency.

    Inputs come from files, or are random. Prints a summary of each output, and the latency of the
    native call (no copies).

    \b
    Example:
      edgeconv run net.edgeconv --input data=x.npy --output y.npz
      edgeconv run net.onnx --threads 1 --repeat 200 --json
      edgeconv run net.edgeconv --device rpi4
    """
    if inputs and seed is not None:
        raise typer.BadParameter("goes with random inputs, not with --input", param_hint="'--seed'")
    files = [split(text)[1] for text in inputs or []]
    if output is not None:
        if output.suffix != ".npz":
            raise typer.BadParameter(f"'{output}' doesn't end in .npz", param_hint="'--output'")
        out.check_output(output, [model, *files])
    with out.progress("loading") as report:
        net = open_model(model, target, threads, input_shape, exact, report, device, timeout)
        report("running")
        names = [s.name for s in net.inputs]
        arrays = read_inputs(inputs, names) if inputs else net.random_inputs(seed or 0)
        results = net.run(arrays)
        if output is not None:
            write_npz(output, results)
        latency = None
        if repeat and not is_emulated(net):
            report(f"measuring {out.plural(repeat, 'sample')}")
            latency = net.benchmark(
                arrays, warmup=warmup, repeat=repeat, min_repeat_ms=min_repeat_ms
            )
    summary = [_summary(name, array) for name, array in results.items()]
    if as_json:
        out.write_json(
            {
                "model": net.manifest.name,
                "target": net.target.name,
                "cpu": net.target.cpu,
                "threads": net.threads,
                "device": device,
                "inputs": [vars(s) for s in net.inputs],
                "seed": None if inputs else seed or 0,
                "outputs": summary,
                "output_file": None if output is None else str(output),
                "latency": None if latency is None else latency.to_json(),
            }
        )
        return
    out.line(f"{out.printable(net.manifest.name)} on {where(net)}", style="bold")
    _print_outputs(summary)
    if latency is not None:
        out.line(f"latency  {latency}")
    if output is not None:
        out.line(f"written  {output}")
    for item in summary:
        if item["nonfinite"]:
            out.message(
                "warning",
                f"output '{item['name']}' has {item['nonfinite']:,} NaN or infinite values",
            )


def _summary(name: str, array: np.ndarray) -> dict[str, Any]:
    """Shape, type and a few statistics over the finite values."""
    import numpy as np

    values = array.astype(np.float64).reshape(-1)
    finite = values[np.isfinite(values)]
    some = finite.size > 0
    return {
        "name": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "min": float(finite.min()) if some else None,
        "max": float(finite.max()) if some else None,
        "mean": float(finite.mean()) if some else None,
        "std": float(finite.std()) if some else None,
        "nonfinite": int(values.size - finite.size),
    }


def _print_outputs(summary: Sequence[Mapping[str, Any]]) -> None:
    statistics = ("min", "max", "mean", "std")
    columns = [out.Column("Output"), out.Column("Type"), out.Column("Shape")]
    rows = [
        [
            item["name"],
            item["dtype"],
            "x".join(map(str, item["shape"])) or "scalar",
            *("" if item[s] is None else f"{item[s]:.6g}" for s in statistics),
        ]
        for item in summary
    ]
    out.table([*columns, *(out.Column(s.title(), number=True) for s in statistics)], rows)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what numpy.load reads; numpy.savez itself refuses names such as "file".

    Raises:
        EdgeconvError: it can't be written; then nothing is left behind.
    """
    import numpy as np

    with out.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
