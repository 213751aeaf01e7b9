"""`edgeconv inspect`: what a network or an artifact consists of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import InputShapes, Json, ModelOrArtifact, parse_shapes
from edgeconv.cli.sources import is_artifact

if TYPE_CHECKING:
    from edgeconv.artifact import Artifact
    from edgeconv.inspection import Inspection


@guarded
def command(
    model: ModelOrArtifact,
    input_shape: InputShapes = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the layers of a network, or what an artifact holds.

    Kinds of convolution, shapes, multiply-accumulates and parameters; of an artifact: target,
    versions, memory, and the compiled layers.

    \b
    Example:
      edgeconv inspect net.onnx --input-shape data=1x3x224x224
      edgeconv inspect net.edgeconv --json
    """
    shapes = parse_shapes(input_shape)
    if is_artifact(model):
        if shapes:
            raise typer.BadParameter(
                f"{model} is compiled already; this goes with ONNX files only",
                param_hint="'--input-shape'",
            )
        with out.progress("loading"):
            from edgeconv import artifact

            compiled = artifact.read(model)
        out.write_json(_artifact_json(model, compiled)) if as_json else _artifact(model, compiled)
        return
    with out.progress("loading the importer") as report:
        from edgeconv.inspection import inspect

        report("reading the model")
        found = inspect(model, input_shapes=shapes or None)
    out.write_json(found.to_json()) if as_json else _network(found)


def _network(found: Inspection) -> None:
    out.table(
        [
            out.Column("#", number=True),
            out.Column("Layer"),
            out.Column("Operator"),
            out.Column("Shapes"),
            out.Column("MMAC", number=True),
            out.Column("Parameters", number=True),
        ],
        [
            (
                number,
                layer.name,
                f"{layer.op} {layer.kind}" if layer.is_convolution else layer.op,
                layer.workload,
                _mega(layer.macs),
                _count(layer.parameters),
            )
            for number, layer in enumerate(found.layers, 1)
        ],
    )
    out.line()
    total = max(found.macs, 1)
    out.table(
        [
            out.Column("Kind"),
            out.Column("Layers", number=True),
            out.Column("MMAC", number=True),
            out.Column("% of MAC", number=True),
            out.Column("Parameters", number=True),
        ],
        [
            (
                kind.kind,
                kind.layers,
                _mega(kind.macs),
                f"{100 * kind.macs / total:.1f}" if kind.macs else "",
                _count(kind.parameters),
            )
            for kind in found.kinds
        ],
        ("total", len(found.layers), _mega(found.macs), "", _count(found.parameters)),
    )
    out.line()
    out.fields(
        [
            *(("input", spec) for spec in found.inputs),
            *(("output", spec) for spec in found.outputs),
            *(("found", line) for line in found.findings),
            *(("one operator", block) for block in found.blocks),
        ]
    )


def _artifact(path: Path, compiled: Artifact) -> None:
    manifest = compiled.manifest
    device = manifest.device
    linked = compiled.shared_library is not None
    code = compiled.shared_library or compiled.object_file or b""
    out.table(
        [
            out.Column("#", number=True),
            out.Column("Layer"),
            out.Column("Operator"),
            out.Column("Shapes"),
            out.Column("Schedule", drop=1),
            out.Column("MMAC", number=True),
        ],
        [
            (number, layer.name, layer.op, layer.workload, layer.schedule, _mega(layer.macs))
            for number, layer in enumerate(manifest.layers, 1)
        ],
        ("", "total", "", "", "", _mega(sum(layer.macs for layer in manifest.layers))),
    )
    out.line()
    out.fields(
        [
            ("network", manifest.name),
            *(("input", spec) for spec in manifest.inputs),
            *(("output", spec) for spec in manifest.outputs),
            ("target", f"{device.name} ({device.arch}, {device.cpu})"),
            ("threads", manifest.threads),
            ("runs here", "yes" if device.is_native else "no"),
            ("code", f"{out.size(len(code))}{'' if linked else ', object file, not linked yet'}"),
            ("weights", out.size(compiled.constants.nbytes)),
            ("workspace", out.size(manifest.workspace_bytes)),
            ("file", f"{path} ({out.size(path.stat().st_size)})"),
            ("made by", f"edgeconv {manifest.edgeconv_version}, TVM {manifest.tvm_version}"),
            ("model SHA-256", manifest.model_sha256),
        ]
    )


def _artifact_json(path: Path, compiled: Artifact) -> dict[str, Any]:
    return {
        **compiled.manifest.to_json(),
        "code": "code.so" if compiled.shared_library is not None else "code.o",
        "code_bytes": len(compiled.shared_library or compiled.object_file or b""),
        "constants_bytes": int(compiled.constants.nbytes),
        "file_bytes": path.stat().st_size,
    }


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.2f}" if macs else ""


def _count(parameters: int) -> str:
    return f"{parameters:,}" if parameters else ""
