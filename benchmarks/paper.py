"""The papers' tables: what was claimed for each system, and what is measured here.

Every table is a list of networks by name (`networks.load`), each perhaps with the network it
replaces. Networks that do not exist here are named and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from edgeconv.benchmarks import networks
from edgeconv.benchmarks.cases import CaseToRun, of_network
from edgeconv.benchmarks.models import grouped_resnet
from edgeconv.benchmarks.peers import OURS, OWN, PEERS
from edgeconv.benchmarks.records import Case
from edgeconv.benchmarks.summary import (
    Engines,
    engine_order,
    fastest_other,
    geometric_mean,
    ratio_to_own,
)
from edgeconv.benchmarks.tabulate import NOTHING, Table, milliseconds
from edgeconv.errors import EdgeconvError


@dataclass(frozen=True)
class Row:
    """A network, and the one it is compared with, if any."""

    network: str
    baseline: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """One system.

    Attributes:
        name: on the command line and in result files, "paper gspc".
        title: system and source.
        claim: what the paper says.
        engines: besides edgeconv and ONNX Runtime.
        rows: networks in order.
    """

    name: str
    title: str
    claim: str
    engines: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def programme(self) -> str:
        """As result files call it."""
        return f"paper {self.name}"

    def networks(self) -> list[str]:
        """Every network once."""
        names = [n for row in self.rows for n in (row.baseline, row.network) if n]
        return list(dict.fromkeys(names))


_GSPC = PaperTable(
    "gspc",
    "Grouped Spatial Pack Convolutions (Gibson et al., ASAP 2020)",
    "On ResNet-34 and WRN-40-2 whose 3×3 became 3×3 in G groups and 1×1: on average 3.4 times "
    "faster than TVM, 8 times than PyTorch, 4 times than TensorFlow Lite; best in all settings "
    "(Intel i7 and HiKey 970).",
    ("tflite", "torch", "torch_cl", "tvm"),
    tuple(
        Row(grouped_resnet.name(base, groups))
        for base in ("resnet34", "wrn40_2")
        for groups in grouped_resnet.GROUPS
    ),
)

_WIDTHS = ("_0.25", "_0.5", "_0.75", "")
_BSCONV = PaperTable(
    "bsconv",
    "Blueprint Separable Convolutions (Haase and Amthor, CVPR 2020)",
    "A dense C→K convolution of C·K·R² parameters becomes pointwise and depthwise: C·K + K·R² "
    "(BSConv-U), or C'(C + K) + K·R² (BSConv-S); for 3×3 from 128 to 256 channels 294,912, 35,072 "
    "and 14,592.",
    ("tflite", "openvino"),
    (
        *(Row(f"bsconv_mobilenetv1{width}", f"mobilenetv1{width}") for width in _WIDTHS),
        *(Row(f"bsconv_s_mobilenetv1{width}", f"mobilenetv1{width}") for width in _WIDTHS),
        Row("bsconv_mobilenetv2", "mobilenetv2"),
        *(
            Row(f"{kind}_{base}", base)
            for base, kind in product(("resnet18", "resnet34", "resnet50"), ("bsconv", "bsconv_s"))
        ),
    ),
)

_DDC = PaperTable(
    "ddc",
    "Depthwise and dilated convolutions combined (Chen et al. 2021)",
    "For face detection 30 % less computation and a model 20 % smaller. Its wiring is not public: "
    "a face detector whose context modules are depthwise branches of three dilations and a 1×1 is "
    "measured against the same one with dense modules.",
    ("tflite", "openvino"),
    (Row("ddc_face", "dense_face"),),
)

_CG, _CO = (2, 4, 8), (25, 33, 50, 75)
_SCC = PaperTable(
    "scc",
    "Sliding-channel convolutions (Wang et al., DSXplore, IPDPS 2021)",
    "Each filter reads C/cg input channels, a window that slides with overlap co: 1/cg of the "
    "parameters and multiply-adds of a pointwise convolution, those of a grouped one with cg "
    "groups.",
    ("tflite", "openvino"),
    (
        *(Row(f"grouped_mobilenet_cg{cg}", "mobilenetv1") for cg in _CG),
        *(Row(f"scc_mobilenet_cg{cg}_co{co}", "mobilenetv1") for cg, co in product(_CG, _CO)),
    ),
)

TABLES = {table.name: table for table in (_GSPC, _BSCONV, _DDC, _SCC)}


def choose(table: PaperTable, threads: Iterable[int]) -> tuple[list[CaseToRun], list[str]]:
    """(cases of the networks that exist, names of those that do not).

    Raises:
        EdgeconvError: none exists.
    """
    known = set(networks.names())
    names = table.networks()
    missing = [name for name in names if name not in known]
    found = [name for name in names if name in known]
    if not any(row.network in known for row in table.rows):
        raise EdgeconvError(
            f"none of the networks of '{table.name}' is in benchmarks/networks.py: "
            f"{', '.join(missing)}"
        )
    return [of_network(name, t) for t in threads for name in found], missing


def tabulate(content: Mapping[str, Any]) -> Table:
    """One row a network: its size, edgeconv's time, how much slower the others are, and how much
    faster it is than the network it replaces.
    """
    table = TABLES[content["programme"].removeprefix("paper ")]
    cases: list[Case] = list(content["cases"].values())
    names = [n for n in engine_order(n for c in cases for n in c["engines"]) if n != OWN]
    titles = ["network", "threads", "M parameters", "MMAC", "edgeconv ms"]
    titles += [f"{PEERS[n].title} / edgeconv" for n in names]
    compared = any(row.baseline for row in table.rows)
    if compared:
        titles += ["parameters / baseline", "MMAC / baseline", "baseline / edgeconv time"]
    rows = []
    for case, base in _with_baselines(content):
        row = [case["network"], str(case["threads"]), *_size(case)]
        row += [milliseconds(_median(case["engines"], OWN))]
        row += [_times(case["engines"], n) for n in names]
        if compared:
            row += _against(case, base)
        rows.append(row)
    return Table(titles, rows)


def _size(case: Case) -> list[str]:
    if "flops" not in case:
        return [NOTHING, NOTHING]
    return [f"{case['parameters'] / 1e6:.2f}", f"{case['flops'] / 2e6:.0f}"]


def _median(engines: Engines, name: str) -> float | None:
    value: float | None = engines.get(name, {}).get("median_ms")
    return value


def _times(engines: Engines, name: str) -> str:
    ratio = ratio_to_own(engines, name)
    return NOTHING if ratio is None else f"{ratio:.2f}"


def _against(case: Case, base: Case | None) -> list[str]:
    if base is None:
        return [NOTHING] * 3
    cells = [
        f"{case[k] / base[k]:.2f}" if k in case and k in base else NOTHING
        for k in ("parameters", "flops")
    ]
    own, other = _median(case["engines"], OWN), _median(base["engines"], OWN)
    return [*cells, f"{other / own:.2f}" if own and other else NOTHING]


def verdict(content: Mapping[str, Any]) -> str:
    """Geometric means over all networks, beside other engines and beside the networks they replace:
    what stands beside the claim.
    """
    return " ".join([*_beside_engines(content), *_beside_baselines(content)]) or "nothing."


def _beside_engines(content: Mapping[str, Any]) -> list[str]:
    cases: list[Case] = [c for c in content["cases"].values() if fastest_other(c["engines"])]
    if not cases:
        return []
    parts = []
    for name in engine_order(n for c in cases for n in c["engines"]):
        ratios = [r for c in cases if (r := ratio_to_own(c["engines"], name)) is not None]
        if name not in OURS and ratios:
            parts.append(f"{geometric_mean(ratios):.2f} times {PEERS[name].title}'s")
    nearest = [ratio_to_own(c["engines"], fastest_other(c["engines"]) or "") for c in cases]
    best = sum(ratio is not None and ratio > 1 for ratio in nearest)
    return [
        f"edgeconv's speed is, in the geometric mean, {', '.join(parts)}; it is the fastest in "
        f"{best} of {len(cases)} settings."
    ]


def _beside_baselines(content: Mapping[str, Any]) -> list[str]:
    """Parameters, products and edgeconv's speed of networks, relative to those they replace."""
    pairs = [(case, base) for case, base in _with_baselines(content) if base is not None]
    texts = []
    for part, key in (("parameters", "parameters"), ("multiply-adds", "flops")):
        ratios = [c[key] / b[key] for c, b in pairs if c.get(key) and b.get(key)]
        if ratios:
            texts.append(f"{geometric_mean(ratios):.2f} of the {part}")
    times = [(_median(c["engines"], OWN), _median(b["engines"], OWN)) for c, b in pairs]
    speeds = [base / own for own, base in times if own and base]
    if speeds:
        texts.append(f"{geometric_mean(speeds):.2f} times the speed")
    if not texts:
        return []
    return [f"Beside the networks they replace, in edgeconv and the mean: {', '.join(texts)}."]


def _with_baselines(content: Mapping[str, Any]) -> list[tuple[Case, Case | None]]:
    """Every case, and that of the network it replaces on as many threads."""
    table = TABLES[content["programme"].removeprefix("paper ")]
    baselines = {row.network: row.baseline for row in table.rows}
    cases: list[Case] = list(content["cases"].values())
    by_name = {(c["network"], c["threads"]): c for c in cases}
    return [(c, by_name.get((baselines.get(c["network"]) or "", c["threads"]))) for c in cases]


def summary(content: Mapping[str, Any]) -> str:
    """Markdown: claim, verdict, table."""
    table = TABLES[content["programme"].removeprefix("paper ")]
    return (
        f"**{table.title}**\n\nClaimed: {table.claim}\n\nMeasured: {verdict(content)}\n\n"
        f"{tabulate(content).markdown()}"
    )
