"""What a compression did."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeconv.compression.saving import save


@dataclass(frozen=True)
class CompressedLayer:
    """One decomposed convolution.

    Attributes:
        name: the ONNX node.
        shape: of its weights, [K, C, *kernel].
        rank: filters for each input channel; `full_rank` would be exact.
        energy: share kept: of the weights' squared norm, with calibration of the responses'.
        macs_before, macs_after: multiply-accumulates of one run.
        error: ‖difference‖ / ‖output‖ of this layer's output in the compressed network, with all
            that layers before it lost; infinite if the output was zero.
    """

    name: str
    shape: tuple[int, ...]
    rank: int
    full_rank: int
    energy: float
    macs_before: int
    macs_after: int
    error: float


@dataclass(frozen=True)
class KeptLayer:
    """A convolution that stays as it is, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Compression:
    """A compressed network, and what was done to it.

    Attributes:
        model: the network.
        layers: in the network's order.
        macs_before, macs_after: of the whole network, matrix products included.
        errors: ‖difference‖ / ‖output‖ of each output of floating point.
        calibrated: whether the errors are on calibration data; otherwise on seeded noise.
        external: whether to store weights beside the model, as its source does.
    """

    model: onnx.ModelProto
    layers: tuple[CompressedLayer, ...]
    kept: tuple[KeptLayer, ...]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    errors: dict[str, float]
    calibrated: bool
    external: bool = False
    source_files: tuple[Path, ...] = ()

    @property
    def ratio(self) -> float:
        """Work before over work after."""
        return self.macs_before / self.macs_after

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model, whole or not at all; external weights go to `path` + ".data".

        Raises:
            EdgeconvError: it can't be written.
        """
        return save(self.model, Path(path), self.external, self.source_files)

    def to_json(self) -> dict[str, Any]:
        """Everything but the model as JSON types; an infinite error is None."""
        return {
            "layers": [{**asdict(x), "error": _finite(x.error)} for x in self.layers],
            "kept": [asdict(x) for x in self.kept],
            "macs_before": self.macs_before,
            "macs_after": self.macs_after,
            "ratio": self.ratio,
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "errors": {name: _finite(error) for name, error in self.errors.items()},
            "errors_on": "calibration data" if self.calibrated else "noise",
        }


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None
