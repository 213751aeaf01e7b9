"""edgeconv: fast native code for ONNX convolutional networks on edge CPUs.

model = edgeconv.compile("net.onnx", target="host", threads=1)
outputs = model.run({"input": x})
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from edgeconv.version import __version__

if TYPE_CHECKING:
    from edgeconv.api import compile, compile_artifact, explain, load
    from edgeconv.artifact import Artifact, TensorSpec
    from edgeconv.build import Layer
    from edgeconv.errors import (
        ArtifactError,
        BuildError,
        DeviceError,
        EdgeconvError,
        InputError,
        ModelError,
        TargetError,
        UnsupportedOperator,
    )
    from edgeconv.inspection import inspect
    from edgeconv.runtime import BoundCall, Latency, Model, Profile
    from edgeconv.targets import Device

__all__ = [
    "Artifact",
    "ArtifactError",
    "BoundCall",
    "BuildError",
    "Device",
    "DeviceError",
    "EdgeconvError",
    "InputError",
    "Latency",
    "Layer",
    "Model",
    "ModelError",
    "Profile",
    "TargetError",
    "TensorSpec",
    "UnsupportedOperator",
    "__version__",
    "compile",
    "compile_artifact",
    "explain",
    "inspect",
    "load",
]

# Where the names above live. Each is loaded when it is first used: TVM takes seconds to load, and
# `edgeconv doctor` must start where it doesn't load at all.
_HOMES = {
    "edgeconv.api": (
        "compile",
        "compile_artifact",
        "explain",
        "load",
    ),
    "edgeconv.artifact": (
        "Artifact",
        "TensorSpec",
    ),
    "edgeconv.build": ("Layer",),
    "edgeconv.errors": (
        "ArtifactError",
        "BuildError",
        "DeviceError",
        "EdgeconvError",
        "InputError",
        "ModelError",
        "TargetError",
        "UnsupportedOperator",
    ),
    "edgeconv.inspection": ("inspect",),
    "edgeconv.runtime": (
        "BoundCall",
        "Latency",
        "Model",
        "Profile",
    ),
    "edgeconv.targets": ("Device",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    if importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
