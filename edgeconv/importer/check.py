"""Checks an ONNX model before any compiler code sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from edgeconv.errors import ModelError
from edgeconv.importer.check_graph import check_graph
from edgeconv.importer.check_layers import check_layers
from edgeconv.importer.check_nodes import check_nodes
from edgeconv.importer.infer import infer_shapes
from edgeconv.importer.limits import IR_VERSIONS, OPSETS, all_graphs, quoted


def check_model(model: onnx.ModelProto, *, opsets: range = OPSETS) -> None:
    """Checks that `model` is well formed; its external data must be loaded already.

    Cheap checks come first, and all of edgeconv's own before ONNX's native checker and shape
    inference run. Operators that edgeconv does not know are left to the importer. What
    `value_info` says is ignored: shapes are inferred anew.

    Args:
        opsets: accepted versions of the default operator set.

    Raises:
        ModelError: the first fault found, naming the node or value and the reason.
    """
    with clean_errors():
        versions = _versions(model, opsets)
        _check_contents(model)
        check_graph(model.graph)
        known = check_nodes(model.graph, versions)
        check_layers(model.graph, {})
        if known:
            check_layers(infer_shapes(model).graph, {}, inferred=True)


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turns what a hostile file can provoke in Python or protobuf into ModelError."""
    try:
        yield
    except UnicodeDecodeError:
        raise ModelError("a text in the model is not valid UTF-8; the file is damaged") from None
    except (DecodeError, EncodeError):
        raise ModelError(
            "the model cannot be stored as protobuf; it is damaged or too big"
        ) from None
    except RecursionError:
        raise ModelError("the model is nested too deeply") from None
    except (MemoryError, OverflowError):
        raise ModelError("the model is too big for this machine's memory") from None


def _versions(model: onnx.ModelProto, opsets: range) -> dict[str, int]:
    """Version of each imported operator set, after checking them and the IR version."""
    if not model.HasField("graph"):
        raise ModelError("the model has no graph: this is not an ONNX model, or it is truncated")
    if model.ir_version not in IR_VERSIONS:
        raise ModelError(
            f"IR version {model.ir_version} is not supported, only "
            f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]}"
        )
    versions: dict[str, int] = {}
    for imported in model.opset_import:
        quoted(imported.domain)  # raises if not UTF-8
        domain = "" if imported.domain == "ai.onnx" else imported.domain
        if domain in versions:
            raise ModelError(f"operator set {quoted(domain or 'ai.onnx')} is imported twice")
        versions[domain] = imported.version
    span = f"{opsets[0]} to {opsets[-1]}"
    if "" not in versions:
        raise ModelError(f"the model does not say which opset it needs; supported are {span}")
    if versions[""] not in opsets:
        raise ModelError(
            f"opset {versions['']} is not supported, only {span}; "
            "export the model again with an opset in this range"
        )
    for domain, version in versions.items():
        if not 1 <= version <= 1000:
            raise ModelError(f"version {version} of operator set {quoted(domain)} cannot be")
    return versions


def _check_contents(model: onnx.ModelProto) -> None:
    for _ in all_graphs(model.graph):  # raises if nested too deeply
        pass
    if not model.graph.node:
        raise ModelError("the model's graph has no nodes")
    if not model.graph.output:
        raise ModelError("the model's graph has no outputs")
    if model.functions:
        raise ModelError(
            f"the model defines its own function {quoted(model.functions[0].name)}; "
            "inline functions first with onnx.inliner.inline_local_functions"
        )
    if model.training_info:
        raise ModelError("the model holds training information; export it for inference")
