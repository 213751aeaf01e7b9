"""The graph passes, in order."""

from __future__ import annotations

from collections.abc import Callable

from edgeconv.graph.dense_to_conv import dense_to_conv
from edgeconv.graph.fold_scale import fold_scale
from edgeconv.graph.fold_shuffle import fold_shuffle
from edgeconv.graph.fuse_epilogue import fuse_epilogue
from edgeconv.graph.fuse_injective import fuse_injective
from edgeconv.graph.fuse_pairs import Saving, fuse_pairs
from edgeconv.graph.ir import Graph
from edgeconv.graph.phases_to_channels import phases_to_channels
from edgeconv.graph.recognise_activation import recognise_activation
from edgeconv.graph.simplify import simplify
from edgeconv.graph.transposed_to_conv import transposed_to_conv
from edgeconv.graph.volumes_to_slices import volumes_to_slices

PASSES: tuple[tuple[str, Callable[..., int]], ...] = (
    ("transposed convolutions as convolutions", transposed_to_conv),
    ("recognise activations", recognise_activation),
    ("fold scale and shift", fold_scale),
    ("dense layers as 1x1 convolutions", dense_to_conv),
    ("simplify", simplify),
    ("fold scale and shift", fold_scale),
    ("fuse epilogues", fuse_epilogue),
    ("fold channel shuffles", fold_shuffle),
    ("phases of few filters as channels", phases_to_channels),
    ("volumes as slices", volumes_to_slices),
    ("fuse elementwise chains", fuse_injective),
    ("fuse pointwise and depthwise", fuse_pairs),
)

FOR_LANES = (phases_to_channels,)  # passes that take the vector width too
FOR_COSTS = (fuse_pairs,)  # passes that take a cost model


def optimise(graph: Graph, lanes: int = 16, saving: Saving | None = None) -> list[tuple[str, int]]:
    """Run all passes for vectors of `lanes`; returns each pass's name and how often it fired.

    `saving` is the cost model of fusing two convolutions; without it none are.
    """
    graph.prune()
    fired = []
    for title, run in PASSES:
        extra: tuple[object, ...] = (lanes,) if run in FOR_LANES else ()
        fired.append((title, run(graph, *((saving,) if run in FOR_COSTS else extra))))
    return fired
