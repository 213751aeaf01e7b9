"""Every error a user of edgeconv can meet. Each message says what failed, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


class EdgeconvError(Exception):
    """Base class of all errors edgeconv raises on purpose."""


class ModelError(EdgeconvError):
    """The ONNX file is malformed or inconsistent; the message names the node and the reason."""


class TargetError(EdgeconvError):
    """The target is unknown, or its description is wrong."""


class ShapeError(EdgeconvError):
    """A text in the shape grammar is malformed, or describes no convolution."""


class InputError(EdgeconvError):
    """A value given to a compiled model does not fit: name, shape or type."""


class ArtifactError(EdgeconvError):
    """A saved model can't be opened here: damaged, of another version, or for another CPU."""


class DeviceError(EdgeconvError):
    """A board, its server or the tracker can't be reached, is not what was asked for, or failed.

    Attributes:
        kind: "busy" where the board served another client; other values are for its own modules.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class BuildError(EdgeconvError):
    """Code generation or linking failed."""


@dataclass(frozen=True)
class Unsupported:
    """One operator that edgeconv cannot compile."""

    node: str
    operator: str
    opset: int
    reason: str

    def __str__(self) -> str:
        return f"node '{self.node}': {self.operator} (opset {self.opset}): {self.reason}"


class UnsupportedOperator(ModelError):
    """The model holds operators that edgeconv cannot compile; all of them are listed."""

    def __init__(self, items: list[Unsupported]) -> None:
        self.items = items
        lines = "\n  ".join(str(i) for i in items)
        super().__init__(
            f"{len(items)} operator(s) in this model are not supported:\n  {lines}\n"
            "Rewrite or remove these nodes in the exporting framework and try again."
        )
