"""The graph passes, in order."""

from __future__ import annotations

from collections.abc import Callable

from edgeconv.graph.channel_gathers import fold_channel_gathers
from edgeconv.graph.channel_sources import read_channels_at_source
from edgeconv.graph.cluster_channels import cluster_channels
from edgeconv.graph.dead_channels import remove_dead_channels
from edgeconv.graph.dense_to_conv import dense_to_conv
from edgeconv.graph.depthwise_branches import depthwise_branches
from edgeconv.graph.fold_scale import fold_scale
from edgeconv.graph.fold_shuffle import fold_shuffle
from edgeconv.graph.fuse_epilogue import fuse_epilogue
from edgeconv.graph.fuse_injective import fuse_injective
from edgeconv.graph.fuse_pairs import Saving, fuse_pairs
from edgeconv.graph.ir import Graph
from edgeconv.graph.merge_depthwise_sum import merge_depthwise_sum
from edgeconv.graph.order_channels import order_channels
from edgeconv.graph.phases_to_channels import phases_to_channels
from edgeconv.graph.recognise_activation import recognise_activation
from edgeconv.graph.simplify import simplify
from edgeconv.graph.transposed_to_conv import transposed_to_conv
from edgeconv.graph.volumes_to_slices import volumes_to_slices

PASSES: tuple[tuple[str, Callable[..., int]], ...] = (
    ("transposed convolutions as convolutions", transposed_to_conv),
    ("recognise activations", recognise_activation),
    ("fold gathered channels", fold_channel_gathers),
    ("fold scale and shift", fold_scale),
    ("dense layers as 1x1 convolutions", dense_to_conv),
    ("simplify", simplify),
    ("sums of depthwise convolutions as one", merge_depthwise_sum),
    ("fold scale and shift", fold_scale),
    ("fold gathered channels", fold_channel_gathers),
    ("depthwise branches in one pass", depthwise_branches),
    ("fuse epilogues", fuse_epilogue),
    ("read channels where they were made", read_channels_at_source),
    ("fold channel shuffles", fold_shuffle),
    ("remove dead channels", remove_dead_channels),
    ("phases of few filters as channels", phases_to_channels),
    ("volumes as slices", volumes_to_slices),
    ("order channels by cluster", order_channels),
    ("cluster channels", cluster_channels),
    ("fuse elementwise chains", fuse_injective),
    ("fuse pointwise and depthwise", fuse_pairs),
)

# passes that take the vector width too
FOR_LANES = (
    read_channels_at_source,
    remove_dead_channels,
    phases_to_channels,
    order_channels,
)
FOR_COSTS = (fuse_pairs,)  # passes that take a cost model


def optimise(graph: Graph, lanes: int = 16, saving: Saving | None = None) -> list[tuple[str, int]]:
    """Run all passes for vectors of `lanes`; returns each pass's name and how often it fired.

    `saving` is the cost model of fusing two convolutions; without it none are.
    """
    graph.prune()
    return [(title, run_pass(graph, run, lanes, saving)) for title, run in PASSES]


def run_pass(
    graph: Graph, run: Callable[..., int], lanes: int, saving: Saving | None = None
) -> int:
    """Run one pass; how often it fired."""
    if run in FOR_COSTS:
        return run(graph, saving)
    return run(graph, lanes) if run in FOR_LANES else run(graph)
