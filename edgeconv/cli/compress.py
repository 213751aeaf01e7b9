"""`edgeconv compress`: a network with less work, and less exact, as ONNX."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.inputs import read_inputs
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import InputShapes, Json, ModelFile, parse_shapes
from edgeconv.cli.sources import require_onnx

if TYPE_CHECKING:
    import numpy as np

    from edgeconv.compression import Compression

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The model to write. Default: MODEL's name with .compressed.onnx, in this folder.",
        show_default=False,
    ),
]
Method = Annotated[
    Literal["depthwise"],
    typer.Option("--method", help="depthwise: dense k×k into depthwise and 1×1."),
]
Ratio = Annotated[
    float | None,
    typer.Option(
        "--ratio",
        metavar="X",
        help="Multiply-accumulates of the network, before over after: 2 halves them.",
        show_default=False,
    ),
]
Energy = Annotated[
    float | None,
    typer.Option(
        "--energy",
        metavar="X",
        help="Share of its energy that a layer keeps at least, such as 0.95.",
        show_default=False,
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank",
        metavar="N",
        help="The same rank for every layer, also where that saves nothing.",
        show_default=False,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="Typical inputs: .npz by name (.npy for a single input), one after another along "
        "the first axis; some tens.",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="NAME",
        help="Only these convolutions, by name or pattern ('layer4*'); repeatable.",
        show_default=False,
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        metavar="NAME",
        help="Not these convolutions, by name or pattern; repeatable.",
        show_default=False,
    ),
]


@guarded
def command(
    model: ModelFile,
    output: Output = None,
    method: Method = "depthwise",
    ratio: Ratio = None,
    energy: Energy = None,
    rank: Rank = None,
    calibration: Calibration = None,
    only: Only = None,
    skip: Skip = None,
    input_shape: InputShapes = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite dense convolutions as cheaper ones; lossy.

    Writes plain ONNX. Ranks follow from --ratio, --energy or both. With --calibration, the new
    weights are fitted to the network's outputs on your data, and errors are measured there;
    without, on noise.

    \b
    Example:
      edgeconv compress net.onnx --ratio 1.5 --calibration images.npz -o smaller.onnx
      edgeconv compress net.onnx --energy 0.95 --skip stem --json
    """
    shapes = parse_shapes(input_shape)
    require_onnx(model)
    path = Path(f"{model.stem}.compressed.onnx") if output is None else output
    out.check_output(path, [model, *([calibration] if calibration else [])])
    start = time.perf_counter()
    with out.progress("loading the compiler") as report:
        from edgeconv.compression import compress

        found = compress(
            model,
            method=method,
            ratio=ratio,
            energy=energy,
            rank=rank,
            calibration=_calibration(calibration, model, shapes) if calibration else None,
            only=only or (),
            skip=skip or (),
            input_shapes=shapes or None,
            progress=report,
        )
        found.save(path)
    seconds = time.perf_counter() - start
    if as_json:
        sizes = {"output": str(path), "bytes": path.stat().st_size, "seconds": seconds}
        out.write_json({**sizes, **found.to_json()})
    else:
        _show(found, path, seconds)


def _calibration(
    path: Path, model: Path, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The arrays of a file; a bare .npy belongs to the only input."""
    from edgeconv import api

    names = [v.name for v in api.import_graph(model, shapes or None).inputs]
    return read_inputs([str(path)], names, "'--calibration'")


def _show(found: Compression, path: Path, seconds: float) -> None:
    out.table(
        [
            out.Column("Layer"),
            out.Column("Weights", drop=1),
            out.Column("Rank"),
            out.Column("% energy", number=True),
            out.Column("MMAC", number=True),
            out.Column("now", number=True),
            out.Column("Error", number=True),
        ],
        [
            (
                layer.name,
                "x".join(map(str, layer.shape)),
                f"{layer.rank} of {layer.full_rank}",
                f"{100 * layer.energy:.2f}",
                f"{layer.macs_before / 1e6:,.2f}",
                f"{layer.macs_after / 1e6:,.2f}",
                f"{layer.error:.1e}",
            )
            for layer in found.layers
        ],
        (
            "network",
            "",
            "",
            "",
            f"{found.macs_before / 1e6:,.2f}",
            f"{found.macs_after / 1e6:,.2f}",
            f"{max(found.errors.values()):.1e}" if found.errors else "",
        ),
    )
    out.line()
    if found.kept:
        out.table(
            [out.Column("Left as it is"), out.Column("Why", wrap=True)],
            [(layer.name, layer.reason) for layer in found.kept],
        )
        out.line()
    on = "the calibration data" if found.calibrated else "noise"
    out.fields(
        [
            ("written", f"{path} ({out.size(path.stat().st_size)})"),
            ("work", f"{found.ratio:.2f} times fewer multiply-accumulates"),
            ("parameters", f"{found.parameters_before:,}, now {found.parameters_after:,}"),
            *(
                ("output", f"{name}: relative error {error:.1e} on {on}")
                for name, error in found.errors.items()
            ),
            ("time", f"{seconds:.1f} s"),
        ]
    )
