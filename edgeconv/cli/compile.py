"""`edgeconv compile`: an ONNX file in, an artifact out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

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

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The artifact to write. Default: MODEL's name with .edgeconv, in this folder.",
        show_default=False,
    ),
]


@guarded
def command(
    model: ModelFile,
    output: Output = None,
    target: Target = "host",
    threads: Threads = None,
    exact: Exact = False,
    no_records: NoRecords = False,
    records: RecordFolder = None,
    input_shape: InputShapes = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile an ONNX network into one file.

    The file holds native code, packed weights and a manifest; `edgeconv run`, `profile` and
    `inspect` open it, and `edgeconv.load` in Python.

    \b
    Example:
      edgeconv compile net.onnx --target raspberry-pi-4 --threads 4 -o net.edgeconv
    """
    shapes = parse_shapes(input_shape)
    require_onnx(model)
    tuned.check(no_records, records)
    path = Path(f"{model.stem}.edgeconv") if output is None else output
    out.check_output(path, [model])
    start = time.perf_counter()
    with out.progress("loading the compiler") as report:
        from edgeconv import api, linking

        device = api.resolve_target(target)
        found = tuned.find(device, no_records, records)
        artifact = api.compile_artifact(
            model,
            device,
            threads=threads,
            input_shapes=shapes or None,
            numerics=numerics(exact),
            records=False if found is None else found,
            progress=report,
        )
        manifest = artifact.manifest
        report(f"linking for {manifest.device.arch}")
        linked = linking.find_linker(manifest.device) is not None
        artifact.save(path)
    seconds = time.perf_counter() - start
    tuned.warn(found)
    count_tuned = sum(layer.reason.startswith("tuned") for layer in manifest.layers)
    size = path.stat().st_size
    constants = int(artifact.constants.nbytes)
    if as_json:
        out.write_json(
            {
                "output": str(path),
                "bytes": size,
                "code": "code.so" if linked else "code.o",
                "target": manifest.device.name,
                "arch": manifest.device.arch,
                "cpu": manifest.device.cpu,
                "threads": manifest.threads,
                "inputs": [vars(s) for s in manifest.inputs],
                "outputs": [vars(s) for s in manifest.outputs],
                "layers": len(manifest.layers),
                "tuned_layers": count_tuned,
                "macs": sum(layer.macs for layer in manifest.layers),
                "constants_bytes": constants,
                "workspace_bytes": manifest.workspace_bytes,
                "seconds": seconds,
            }
        )
    else:
        device = manifest.device
        macs = sum(layer.macs for layer in manifest.layers)
        out.fields(
            [
                ("written", f"{path} ({out.size(size)})"),
                ("target", f"{device.name} ({device.arch}, {device.cpu})"),
                ("threads", manifest.threads),
                *(("input", s) for s in manifest.inputs),
                *(("output", s) for s in manifest.outputs),
                ("layers", f"{len(manifest.layers)}, {macs / 1e6:,.2f} MMAC"),
                *([("tuned", out.plural(count_tuned, "layer"))] * bool(count_tuned)),
                ("weights", out.size(constants)),
                ("workspace", out.size(manifest.workspace_bytes)),
                ("time", f"{seconds:.1f} s"),
            ]
        )
    if not linked:
        from edgeconv.linking import advice

        out.message(
            "warning",
            f"no linker for {manifest.device.arch} here: the artifact holds an object file "
            "(code.o), which is linked when it is opened on a device with a C compiler. To link it "
            f"now, {advice(manifest.device.arch)}, and compile again",
        )
    if manifest.device.name == "host" and manifest.threads > manifest.device.cores:
        out.message(
            "warning",
            f"compiled for {manifest.threads} threads, but this process may use "
            f"{out.plural(manifest.device.cores, 'core')}",
        )
