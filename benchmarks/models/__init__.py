"""Networks written as ONNX with seeded He-normal weights and plausible batch-norm statistics, so
that comparisons of outputs mean something: `build(name)`; the builders are in `NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx

from edgeconv.benchmarks.models import grouped_resnet
from edgeconv.benchmarks.models.mobilenet import mobilenet_v1, mobilenet_v2
from edgeconv.benchmarks.models.resnext import resnext50
from edgeconv.benchmarks.models.shufflenet import shufflenet_v1

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobilenetv1": mobilenet_v1,
    "mobilenetv2": mobilenet_v2,
    "resnext50_32x4d": resnext50,
    "shufflenetv1_g3": shufflenet_v1,
    **{
        grouped_resnet.name(base, groups): partial(make, groups)
        for base, make in (
            ("resnet34", grouped_resnet.resnet34),
            ("wrn40_2", grouped_resnet.wrn40_2),
        )
        for groups in grouped_resnet.GROUPS
    },
}


def build(name: str) -> onnx.ModelProto:
    """The network as ONNX, batch 1, one input called "input".

    Raises:
        KeyError: there is no such network.
    """
    return NETWORKS[name]()
