"""edgeconv: fast native code for ONNX convolutional networks on edge CPUs.

model = edgeconv.compile("net.onnx", target="host", threads=1)
outputs = model.run({"input": x})
"""

from edgeconv.api import compile, compile_artifact, explain, load
from edgeconv.artifact import Artifact, TensorSpec
from edgeconv.build import Layer
from edgeconv.errors import (
    ArtifactError,
    BuildError,
    EdgeconvError,
    InputError,
    ModelError,
    TargetError,
    UnsupportedOperator,
)
from edgeconv.inspection import inspect
from edgeconv.runtime import BoundCall, Latency, Model, Profile
from edgeconv.targets import Device
from edgeconv.version import __version__

__all__ = [
    "Artifact",
    "ArtifactError",
    "BoundCall",
    "BuildError",
    "Device",
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
