"""Networks written as ONNX with seeded He-normal weights and plausible batch-norm statistics, so
that comparisons of outputs mean something: `build(name)`; the builders are in `NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product

import onnx

from edgeconv.benchmarks.models import grouped_resnet, resnet, scc_mobilenet
from edgeconv.benchmarks.models.efficientnet import efficientnet_lite0
from edgeconv.benchmarks.models.face import ddc_face, dense_face
from edgeconv.benchmarks.models.mobilenet import (
    bsconv_mobilenet_v1,
    bsconv_mobilenet_v2,
    bsconv_s_mobilenet_v1,
    mobilenet_v1,
    mobilenet_v2,
)
from edgeconv.benchmarks.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from edgeconv.benchmarks.models.regnet import regnety_400mf
from edgeconv.benchmarks.models.resnext import resnext50
from edgeconv.benchmarks.models.shufflenet import shufflenet_v1, shufflenet_v2

_WIDTHS = (1.0, 0.75, 0.5, 0.25)
_CG = (2, 4, 8)  # of sliding-channel convolutions
_CO = (Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(3, 4))

NETWORKS: dict[str, Callable[..., onnx.ModelProto]] = {
    **{
        base + ("" if width == 1 else f"_{width:g}"): partial(make, width=width)
        for base, make in (
            ("mobilenetv1", mobilenet_v1),
            ("bsconv_mobilenetv1", bsconv_mobilenet_v1),
            ("bsconv_s_mobilenetv1", bsconv_s_mobilenet_v1),
        )
        for width in _WIDTHS
    },
    "mobilenetv2": mobilenet_v2,
    "mobilenetv3_large": mobilenet_v3_large,
    "mobilenetv3_small": mobilenet_v3_small,
    "efficientnet_lite0": efficientnet_lite0,
    "resnext50_32x4d": resnext50,
    "regnety_400mf": regnety_400mf,
    "shufflenetv1_g3": shufflenet_v1,
    "shufflenetv2": shufflenet_v2,
    "bsconv_mobilenetv2": bsconv_mobilenet_v2,
    **{
        resnet.name(depth, kind): partial(resnet.resnet, depth, kind)
        for depth, kind in product(resnet.BLOCKS, resnet.CONVOLUTIONS)
        if (depth, kind) != (50, "")  # the onnx package has it
    },
    "ddc_face": ddc_face,
    "dense_face": dense_face,
    **{f"grouped_mobilenet_cg{cg}": partial(scc_mobilenet.grouped_mobilenet, cg) for cg in _CG},
    **{
        scc_mobilenet.name(cg, co): partial(scc_mobilenet.scc_mobilenet, cg, co)
        for cg, co in product(_CG, _CO)
    },
    **{
        grouped_resnet.name(base, groups): partial(make, groups)
        for base, make in (
            ("resnet34", grouped_resnet.resnet34),
            ("wrn40_2", grouped_resnet.wrn40_2),
        )
        for groups in grouped_resnet.GROUPS
    },
}


def build(name: str, **options: int) -> onnx.ModelProto:
    """The network as ONNX, batch 1, one input called "input"; options such as seed and size.

    Raises:
        KeyError: there is no such network.
    """
    return NETWORKS[name](**options)
