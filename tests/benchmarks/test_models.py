"""The networks of `edgeconv.benchmarks.models`: their counts, and their outputs."""

from __future__ import annotations

import math

import onnx
import pytest

import edgeconv
from edgeconv.benchmarks import models, networks, paper
from edgeconv.benchmarks.models.blueprint import bsconv_s, bsconv_u
from edgeconv.benchmarks.onnx_builder import Builder
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
    "resnet18": (11_689_512, 1814),
    "resnet34": (21_797_672, 3664),
    # timm's tf_efficientnet_lite0; work of EfficientNet-B0, 386, without squeeze-and-excite
    "efficientnet_lite0": (4_652_008, 385),
}
V1_IN = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024)
V1_OUT = (*V1_IN[1:], 1024)
V1_PAIRS = list(zip(V1_IN, V1_OUT, strict=True))
RESNET50 = 25_557_032  # torchvision's
NEW = [
    n
    for n in models.NETWORKS
    if not n.startswith(("resnet34_", "wrn40", "resnext", "shufflenetv1"))
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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "resnet34" else n for n in PUBLISHED]
)
def test_published_counts(name: str) -> None:
    model = models.build(name)
    parameters, work = PUBLISHED[name]
    assert trained(model) == parameters
    assert round(edgeconv.inspect(model).macs / 1e6) == work


def subspace(channels: int, share: float) -> int:
    """C' of BSConv-S."""
    return min(channels, max(4, math.ceil(share * channels)))


@pytest.mark.parametrize("width", ["", "_0.75", "_0.5", "_0.25"])
def test_blueprint_mobilenet_v1(width: str) -> None:
    """BSConv-U: filters of K channels for C; one batch norm less. BSConv-S: besides, C'·(C + K) for
    each 1×1 of C·K, C' a sixth of C.
    """
    baseline = PUBLISHED[f"mobilenetv1{width}"][0]
    factor = float(width.removeprefix("_") or 1)
    pairs = [(int(c * factor), int(k * factor)) for c, k in V1_PAIRS]
    wanted = baseline + sum(9 * (k - c) - 2 * c for c, k in pairs)
    assert trained(models.build(f"bsconv_mobilenetv1{width}")) == wanted
    wanted += sum(subspace(c, 1 / 6) * (c + k) - c * k for c, k in pairs)
    assert trained(models.build(f"bsconv_s_mobilenetv1{width}")) == wanted


def test_blueprint_mobilenet_v2() -> None:
    """BSConv-S: as many as the baseline."""
    plain, blueprint = models.build("mobilenetv2"), models.build("bsconv_mobilenetv2")
    assert trained(blueprint) == trained(plain)
    assert edgeconv.inspect(blueprint).macs == edgeconv.inspect(plain).macs


@pytest.mark.parametrize(
    ("depth", "blocks"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)), (50, (3, 4, 6, 3))]
)
def test_blueprint_resnets(depth: int, blocks: tuple[int, ...]) -> None:
    """Each 3×3 of 9·C·K becomes C·K + 9·K (U) or C'·(C + K) + 9·K (S), C' a quarter of C."""
    widths = [w for w, n in zip((64, 128, 256, 512), blocks, strict=True) for _ in range(n)]
    pairs = [(w, w) for w in widths]
    if depth < 50:  # two 3×3 a block, the first from the channels of the block before
        pairs += zip([64, *widths[:-1]], widths, strict=True)
    baseline = RESNET50 if depth == 50 else PUBLISHED[f"resnet{depth}"][0]
    dense = sum(9 * c * k for c, k in pairs)
    unconstrained = sum(c * k + 9 * k for c, k in pairs)
    assert trained(models.build(f"bsconv_resnet{depth}")) == baseline - dense + unconstrained
    reduced = sum(subspace(c, 1 / 4) * (c + k) + 9 * k for c, k in pairs)
    assert trained(models.build(f"bsconv_s_resnet{depth}")) == baseline - dense + reduced


def test_blueprint_parameters_of_the_paper() -> None:
    """3×3 from 128 to 256 channels: 35,072 and 14,592 weights."""
    for convolution, wanted in ((bsconv_u, 35_072), (bsconv_s, 14_592)):
        b = Builder("block", (1, 128, 8, 8))
        model = b.model(convolution(b, "input", 128, 256, 1))
        weights = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
        count = sum(math.prod(t.dims) for t in model.graph.initializer if t.name in weights)
        assert count == wanted


@pytest.mark.parametrize(("overlap", "cycle"), [("25", 4), ("33", 1.5), ("50", 2), ("75", 4)])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_sliding_channel_mobilenet(groups: int, overlap: str, cycle: float) -> None:
    """Each 1×1 of C·K has C·K / cg weights; the file also has rows that fill up the last cycle of
    windows, which is `cycle` times cg long.
    """
    wanted = with_narrow_pointwise(groups)
    wanted += sum(-k % int(cycle * groups) * c // groups for c, k in V1_PAIRS)
    assert trained(models.build(f"scc_mobilenet_cg{groups}_co{overlap}")) == wanted


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_grouped_pointwise_mobilenet(groups: int) -> None:
    model = models.build(f"grouped_mobilenet_cg{groups}")
    assert trained(model) == with_narrow_pointwise(groups)


def with_narrow_pointwise(groups: int) -> int:
    """Parameters of MobileNetV1 whose 1×1 filters read C / groups channels."""
    dense = sum(c * k for c, k in V1_PAIRS)
    return PUBLISHED["mobilenetv1"][0] - dense + dense // groups


@pytest.mark.parametrize(("name", "inputs"), [("ddc_face", 1), ("dense_face", 64)])
def test_face_detectors(name: str, inputs: int) -> None:
    """`inputs` of each 3×3 filter in the context modules."""
    model = models.build(name)
    backbone = 470_072 - (256 * 1000 + 1000)
    pyramid = (64 + 128 + 256 + 3 * 2) * 64 + 2 * (9 * 64 + 2 * 64 + 64 * 64 + 2 * 64)
    context = 3 * (3 * (9 * inputs + 2) * 64 + 3 * 64 * 64 + 2 * 64)
    heads = 3 * 2 * (2 + 4 + 10) * (64 + 1)
    assert trained(model) == backbone + pyramid + context + heads
    shapes = [s.shape[1:] for s in edgeconv.inspect(model).outputs]
    assert shapes == [(c, s, s) for c in (4, 8, 20) for s in (40, 20, 10)]


@pytest.mark.parametrize("table", paper.TABLES.values(), ids=paper.TABLES)
def test_the_networks_of_the_papers_exist(table: paper.PaperTable) -> None:
    found, missing = paper.choose(table, [1])
    assert missing == []
    assert [c.key for c in found] == [f"{name}, 1 thread" for name in table.networks()]


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
