"""Networks built in PyTorch and exported to ONNX: `export(name)`; the builders are in `NETWORKS`.

Weights are He-normal from a seed and batch-norm statistics are plausible random numbers, so that
comparisons of outputs mean something. Needs the extra `bench` (torch).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import onnx
import torch
from torch import nn

from edgeconv.benchmarks.models.mobilenet import MobileNetV1, MobileNetV2
from edgeconv.benchmarks.models.resnext import ResNeXt50
from edgeconv.benchmarks.models.shufflenet import ShuffleNetV1

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
    "resnext50_32x4d": ResNeXt50,
    "shufflenetv1_g3": ShuffleNetV1,
}


def initialise(module: nn.Module, seed: int) -> nn.Module:
    """Seeded weights and batch-norm statistics, in place; the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values, low, high in (
                    (layer.weight, 0.75, 1.25),
                    (layer.bias, -0.2, 0.2),
                    (layer.running_mean, -0.2, 0.2),
                    (layer.running_var, 0.75, 1.25),
                ):
                    assert values is not None
                    values.uniform_(low, high, generator=generator)
            elif isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-0.1, 0.1, generator=generator)
    return module.eval()


def export(name: str, *, size: int = 224, batch: int = 1, seed: int = 0) -> onnx.ModelProto:
    """The network as ONNX, opset 13, input "input" [batch, 3, size, size], output "output".

    Raises:
        KeyError: there is no such network.
    """
    module = initialise(NETWORKS[name](), seed)
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (torch.zeros(batch, 3, size, size),),
        buffer,
        input_names=["input"],
        output_names=["output"],
        opset_version=13,
        dynamo=False,
    )
    return onnx.load_from_string(buffer.getvalue())
