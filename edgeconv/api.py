"""The public functions; `edgeconv` re-exports them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from edgeconv import artifact, build, targets
from edgeconv.errors import EdgeconvError, TargetError
from edgeconv.graph.ir import Graph
from edgeconv.importer import import_model, read_model
from edgeconv.runtime import Model
from edgeconv.targets import Device
from edgeconv.tuning import records as tuned
from edgeconv.version import __version__

if TYPE_CHECKING:
    from edgeconv.device import RemoteModel

_LOG = logging.getLogger(__name__)

Numerics = Literal["fast", "exact"]
RecordChoice = bool | str | os.PathLike[str] | tuned.Records
Source = str | os.PathLike[str] | bytes | onnx.ModelProto


def compile(
    model: Source,
    target: str | os.PathLike[str] | Device = "host",
    *,
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    numerics: Numerics = "fast",
    records: RecordChoice = True,
    progress: Callable[[str], None] | None = None,
) -> Model:
    """Compile an ONNX network for a CPU and load it.

    Args:
        model: path, serialised bytes or a ModelProto.
        target: "host", the name of a device (`edgeconv targets`), a TOML file, or a Device.
        threads: threads to compile for; default: all cores of the target.
        input_shapes: fixes dynamic inputs, for example {"input": (1, 3, 224, 224)}.
        numerics: "fast" may use Winograd convolution and Strassen's product, whose rounding error
            is a few times the direct sum's; "exact" never does.
        records: tuned knobs: True takes those that come with edgeconv and the user's own; a folder
            takes its place; False: default knobs everywhere.
        progress: called with a short text at each stage.

    Returns:
        A model that runs here; compile for another machine with `compile_artifact`.

    Raises:
        ModelError: the file is malformed, or its shapes are not fixed.
        UnsupportedOperator: it needs operators edgeconv lacks; all of them are named.
        TargetError: the target is unknown, or not this machine.
        BuildError: code generation failed.
    """
    device = resolve_target(target)
    if not device.is_native:
        raise TargetError(
            f"'{device.name}' ({device.arch}, {device.cpu}) is not this machine: save the "
            "model for it with `edgeconv.compile_artifact(...).save(path)`, or with "
            "`edgeconv compile --target`"
        )
    return Model(
        compile_artifact(
            model,
            device,
            threads=threads,
            input_shapes=input_shapes,
            numerics=numerics,
            records=records,
            progress=progress,
        )
    )


def compile_artifact(
    model: Source,
    target: str | os.PathLike[str] | Device = "host",
    *,
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    numerics: Numerics = "fast",
    records: RecordChoice = True,
    progress: Callable[[str], None] | None = None,
) -> artifact.Artifact:
    """Like `compile`, for any target: the result is saved, and loaded on the device."""
    report = progress or (lambda _: None)
    device = resolve_target(target)
    count = device.cores if threads is None else threads
    device.tvm_target(count)  # refuses a bad number of threads before any work is done
    report("reading the model")
    proto = read_model(model)
    graph = import_model(proto, input_shapes)
    found = find_records(device, records)
    exact = _is_exact(numerics)
    program = build.build(graph, device, count, report, exact=exact, records=found)
    _log_faults(found, records)
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    name = _name(model, proto)
    return artifact.from_program(program, name, device, count, digest, __version__)


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    timeout: float = 30.0,
) -> Model:
    """Open a model saved with `Model.save`, here or on a board.

    Args:
        path: the artifact.
        device: where it runs: "rpc://HOST:PORT/KEY", "rpc://HOST:PORT", "ssh://USER@HOST", or a
            name `edgeconv device add` gave; default: this machine.
        timeout: seconds the board may take for each answer.

    Returns:
        The model; on a board a `edgeconv.device.RemoteModel`, whose `close` frees the board.

    Raises:
        ArtifactError: missing, damaged, of another format, or for another CPU.
        DeviceError: the board can't be reached, is not what the model was compiled for, or failed.
    """
    opened = artifact.read(path)
    return Model(opened) if device is None else load_on_device(opened, device, timeout)


def load_on_device(opened: artifact.Artifact, device: str, timeout: float = 30.0) -> RemoteModel:
    """An artifact on a board; see `load`."""
    from edgeconv.device import RemoteModel, session

    board = session(device, timeout)
    try:
        return RemoteModel(opened, board)
    except BaseException:
        board.close()
        raise


def explain(
    model: Source,
    target: str | os.PathLike[str] | Device = "host",
    *,
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    numerics: Numerics = "fast",
    records: RecordChoice = True,
) -> tuple[build.Layer, ...]:
    """What each layer becomes on the target, with which knobs, and why; nothing is compiled.

    Raises:
        The errors of `compile`.
    """
    device = resolve_target(target)
    count = device.cores if threads is None else threads
    device.tvm_target(count)  # refuses a bad number of threads
    graph = import_graph(model, input_shapes)
    found = find_records(device, records)
    layers = build.describe(graph, device, count, exact=_is_exact(numerics), records=found)
    _log_faults(found, records)
    return layers


def find_records(device: Device, records: RecordChoice = True) -> tuned.Records | None:
    """The records for a device: see `compile`. None if there are to be none.

    Raises:
        RecordError: a folder can't be read.
    """
    if isinstance(records, tuned.Records):
        return records
    if isinstance(records, bool):
        return tuned.load(device, tuned.default_folders()) if records else None
    return tuned.load(device, tuned.default_folders(Path(records)))


def _log_faults(found: tuned.Records | None, asked: RecordChoice) -> None:
    """Say what was wrong with records; callers that bring their own look for themselves."""
    if found is not None and found is not asked:
        for fault in found.faults:
            _LOG.warning("%s", fault)


def import_graph(model: Source, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The network as the compiler sees it, before any optimisation."""
    return import_model(read_model(model), input_shapes)


def resolve_target(target: str | os.PathLike[str] | Device) -> Device:
    """The device a target names.

    Raises:
        TargetError: unknown name, or a faulty TOML file.
    """
    if isinstance(target, Device):
        return target
    if not isinstance(target, (str, os.PathLike)):
        raise TargetError(f"a target is a name, a TOML file or a Device, not {target!r}")
    return targets.load(target)


def _is_exact(numerics: str) -> bool:
    if numerics not in ("fast", "exact"):
        raise EdgeconvError(f"numerics is 'fast' or 'exact', not {numerics!r}")
    return numerics == "exact"


def _name(model: Source, proto: onnx.ModelProto) -> str:
    if isinstance(model, (str, os.PathLike)):
        return Path(model).stem
    return proto.graph.name or "model"
