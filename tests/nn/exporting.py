"""Modules of PyTorch as ONNX, by both of its exporters."""

from __future__ import annotations

import importlib.util
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgeconv
from tests.e2e.models import assert_close, expected

EXPORTERS = ("legacy", "dynamo")
TOLERANCE = 1e-4  # of the output's max-norm


def export(module: nn.Module, x: torch.Tensor, exporter: str = "legacy") -> onnx.ModelProto:
    """The module in evaluation mode, input "x"; skips the test where an exporter is missing."""
    if exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("PyTorch's new exporter needs onnxscript")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(
                module.eval(), (x,), dynamo=True, input_names=["x"], verbose=False
            )
            return program.model_proto
        torch.onnx.export(module.eval(), (x,), buffer, dynamo=False, input_names=["x"])
    return onnx.load_from_string(buffer.getvalue())


def with_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with batch norms that do something."""
    torch.manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.normal_(tensor, 0, 0.5)
    return module.eval()


def check(module: nn.Module, x: torch.Tensor, exporter: str = "legacy") -> edgeconv.Model:
    """Compile the exported module, and compare with PyTorch and with ONNX Runtime."""
    model = export(module, x, exporter)
    compiled = edgeconv.compile(model, threads=1)
    feeds = {"x": x.numpy()}
    found = compiled.run(feeds)
    assert_close(found, expected(model, feeds), TOLERANCE)
    with torch.no_grad():
        wanted = module(x).numpy()
    assert_close(found, {next(iter(found)): np.ascontiguousarray(wanted)}, TOLERANCE)
    return compiled
