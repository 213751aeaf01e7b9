"""One small convolution whose result is known: does a compiled network compute what it should?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOLERANCE = 1e-5  # of the output's largest magnitude


@dataclass(frozen=True)
class Trial:
    """A network with one 3×3 convolution, its input "x", and what "y" must be."""

    model: onnx.ModelProto
    x: np.ndarray
    wanted: np.ndarray

    def error(self, y: np.ndarray) -> float:
        """Largest deviation, relative to the largest magnitude."""
        return float(np.abs(y - self.wanted).max() / np.abs(self.wanted).max())


def small_convolution() -> Trial:
    """8 channels of 12×12 to 16, with padding; the result is NumPy's in float64."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 12, 12)).astype(np.float32)
    weight = rng.standard_normal((16, 8, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], name="conv")
    graph = helper.make_graph(
        [node],
        "trial",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 16, 12, 12))],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 13)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    wanted = np.einsum("ihwrs,oirs->ohw", windows, weight.astype(np.float64))[None]
    return Trial(model, x, wanted)
