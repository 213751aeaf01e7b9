"""The networks of `edgeconv.benchmarks.models`: their counts, and their outputs."""

from __future__ import annotations

import math

import onnx
import pytest

import edgeconv
from edgeconv.benchmarks import models, networks
from tests.e2e.models import assert_close, expected

TOLERANCE = 1e-4  # of the output's max-norm

# Parameters that are trained, exactly, and millions of multiply-accumulates.
PUBLISHED = {
    # Howard et al. 2017, tables 6 and 8; parameters of Keras' models, exactly
    "mobilenetv1": (4_231_976, 569),
    "mobilenetv1_0.75": (2_585_560, 325),
    "mobilenetv1_0.5": (1_331_592, 149),
    "mobilenetv1_0.25": (470_072, 41),
    # torchvision's models and its tables of GFLOPS
    "mobilenetv2": (3_504_872, 301),
    "mobilenetv3_large": (5_483_032, 217),
    "mobilenetv3_small": (2_542_856, 57),
    "shufflenetv2": (2_278_604, 145),
    "regnety_400mf": (4_344_144, 402),
    # timm's tf_efficientnet_lite0; work of EfficientNet-B0, 386, without squeeze-and-excite
    "efficientnet_lite0": (4_652_008, 385),
}
V1_IN = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024)
V1_OUT = (*V1_IN[1:], 1024)
NEW = [
    n for n in models.NETWORKS if not n.startswith(("resnet34", "wrn40", "resnext", "shufflenetv1"))
]
FAST = {"mobilenetv3_small", "ddc_face"}


def trained(model: onnx.ModelProto) -> int:
    """Weights, biases, and scale and shift of batch norms."""
    statistics = {
        name
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:]
    }
    layers = ("Conv", "Gemm", "BatchNormalization")
    names = {n for node in model.graph.node if node.op_type in layers for n in node.input[1:]}
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.name in names - statistics)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    model = models.build(name)
    parameters, work = PUBLISHED[name]
    assert trained(model) == parameters
    assert round(edgeconv.inspect(model).macs / 1e6) == work


def test_blueprint_mobilenets() -> None:
    """BSConv-U: filters of K channels for C; one batch norm less. BSConv-S of V2: the baseline."""
    baseline = 4_231_976
    filters = 9 * (sum(V1_OUT) - sum(V1_IN))
    assert trained(models.build("bsconv_mobilenetv1")) == baseline + filters - 2 * sum(V1_IN)
    plain, blueprint = models.build("mobilenetv2"), models.build("bsconv_mobilenetv2")
    assert trained(blueprint) == trained(plain)
    assert edgeconv.inspect(blueprint).macs == edgeconv.inspect(plain).macs


def test_blueprint_resnet() -> None:
    """torchvision's ResNet-18 has 11,689,512; each 3×3 of 9·C·K becomes C·K + 9·K."""
    pairs = [(64, 64)] * 4
    for c, k in ((64, 128), (128, 256), (256, 512)):
        pairs += [(c, k), *[(k, k)] * 3]
    saved = sum(9 * c * k - (c * k + 9 * k) for c, k in pairs)
    assert trained(models.build("bsconv_resnet18")) == 11_689_512 - saved


@pytest.mark.parametrize(
    ("name", "groups", "cycle"), [("cg2_co50", 2, 4), ("cg4_co50", 4, 8), ("cg2_co33", 2, 3)]
)
def test_sliding_channel_mobilenet(name: str, groups: int, cycle: int) -> None:
    """Each 1×1 of C·K has C·K / cg weights; the file also has rows that fill up the last cycle."""
    pairs = list(zip(V1_IN, V1_OUT, strict=True))
    dense = sum(c * k for c, k in pairs)
    wanted = 4_231_976 - dense + dense // groups + sum(-k % cycle * c // groups for c, k in pairs)
    assert trained(models.build(f"scc_mobilenet_{name}")) == wanted


def test_face_detector() -> None:
    model = models.build("ddc_face")
    backbone = 470_072 - (256 * 1000 + 1000)
    pyramid = (64 + 128 + 256 + 3 * 2) * 64 + 2 * (9 * 64 + 2 * 64 + 64 * 64 + 2 * 64)
    context = 3 * (3 * (9 + 2) * 64 + 3 * 64 * 64 + 2 * 64)
    heads = 3 * 2 * (2 + 4 + 10) * (64 + 1)
    assert trained(model) == backbone + pyramid + context + heads
    shapes = [s.shape[1:] for s in edgeconv.inspect(model).outputs]
    assert shapes == [(c, s, s) for c in (4, 8, 20) for s in (40, 20, 10)]


def test_all_are_known_by_name() -> None:
    assert set(models.NETWORKS) <= set(networks.names())
    assert networks.load("ddc_face").graph.name == "ddc_face"


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NEW]
)
def test_outputs(name: str) -> None:
    model = models.build(name, size=64, seed=1)
    compiled = edgeconv.compile(model, threads=1)
    feeds = compiled.random_inputs()
    assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE)
