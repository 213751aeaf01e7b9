"""The programmes that answer single questions, as reports show their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeconv.benchmarks import (
    channel_windows,
    ddc_layers,
    default_study,
    depthwise_bounds,
    fused_pairs,
    tabulate,
    tuning_study,
)
from edgeconv.benchmarks.summary import faults
from edgeconv.benchmarks.tabulate import Table

Content = Mapping[str, Any]
Dots = dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class Study:
    """One programme.

    Attributes:
        programme: as result files call it.
        title: of the section.
        text: what was done, in a sentence or two.
        tables: short ones.
        every: one row a case.
        axis: what the ratios of the chart are.
        dots: (case, ratio) of the chart's strips by name; above 1 is better. None: no chart.
    """

    programme: str
    title: str
    text: str
    tables: Callable[[Content], list[Table]]
    every: Callable[[Content], Table]
    axis: str = ""
    dots: Callable[[Content], Dots] | None = None

    @property
    def section(self) -> str:
        """Of the HTML page."""
        return self.programme.replace("_", "-")

    def markdown(self, content: Content) -> str:
        """The short tables, that of every case folded, and what failed."""
        long = self.every(content)
        parts = [
            tabulate.together(self.tables(content)),
            f"<details><summary>All {len(long.rows)} rows</summary>\n",
            long.markdown(),
            "</details>\n",
        ]
        broken = faults({k: tabulate.measurements(c) for k, c in content["cases"].items()})
        return "\n".join([*parts, *([broken] if broken else [])])


_OTHERS = "fastest other / edgeconv"
_ALL = (
    Study(
        fused_pairs.PROGRAMME,
        "Fused pairs",
        "Pointwise and depthwise convolutions with bias and ReLU: one kernel against the two that "
        "it replaces, also where the cost model leaves them apart; and the pair as a network, NCHW "
        "in and out, against the other engines.",
        fused_pairs.tables,
        fused_pairs.every,
        "two kernels / fused",
        fused_pairs.dots,
    ),
    Study(
        ddc_layers.PROGRAMME,
        "DDC layers",
        "Three depthwise branches (d123: 3×3 of dilation 1, 2, 3; k357: 3×3, 5×5, 7×7), summed, "
        "or with ReLU behind each summed or concatenated; alone, NCHW in and out, and between two "
        "1×1 that count too.",
        ddc_layers.tables,
        ddc_layers.every,
        _OTHERS,
        ddc_layers.dots,
    ),
    Study(
        channel_windows.PROGRAMME,
        "Sliding channels and ragged groups",
        "As exporters write them, on all engines. Gain: time of the dense convolution of the same "
        "shape in edgeconv over theirs; ideal gain: products of the dense one over theirs.",
        channel_windows.tables,
        channel_windows.every,
        _OTHERS,
        channel_windows.dots,
    ),
    Study(
        default_study.PROGRAMME,
        "Default knobs",
        "Time of a kernel with default knobs over the best that a search among all legal settings "
        "found; the search tried all of them, or a sample.",
        default_study.tables,
        default_study.every,
    ),
    Study(
        depthwise_bounds.PROGRAMME,
        "Bounds of depthwise convolutions",
        "Random depthwise layers, one core. A layer takes at least as long as copying half of the "
        "bytes of its input and output together, over and over, from one buffer to another, or as "
        "the multiply-adds of its taps that meet the image at the measured peak; share: the longer "
        "of the two over the kernel's time.",
        depthwise_bounds.tables,
        depthwise_bounds.every,
        "bound / time",
        depthwise_bounds.dots,
    ),
    Study(
        tuning_study.PROGRAMME,
        "Tuning",
        "Random layers: what the best of all candidates gains over the default, and how much of it "
        "searches find after how many trials, with the cost model and at random.",
        tuning_study.tables,
        tuning_study.every,
        "default / best time",
        tuning_study.dots,
    ),
)
STUDIES = {study.programme: study for study in _ALL}
