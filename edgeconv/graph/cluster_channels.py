"""Dense convolutions whose weights have blocks of zeros: which outputs read which inputs.

Where rows of the weights (output channels) share their zeros, the schedules for clusters leave
those products out. Filters with zeros here and there gain nothing: a kernel computes several output
channels at once, and reads all that any of them reads.

A product with a zero weight that is left out is one that would have been 0, but for an input that
is infinite or not a number.
"""

from __future__ import annotations

import numpy as np

from edgeconv.clusters import Clusters
from edgeconv.graph.channel_components import is_plain
from edgeconv.graph.ir import Graph, Node

WORTHWHILE = 0.8  # of a dense convolution's products, in tiles of TILE output channels
TILE = 8


def cluster_channels(graph: Graph) -> int:
    """Note the clusters of every convolution that has some, and make ordinary groups of those that
    are; the number of both.
    """
    return sum(_cluster(graph, node) for node in graph.nodes)


def find_clusters(node: Node) -> Clusters | None:
    """The clusters of a convolution's channels; None if it has none worth a kernel of its own."""
    if not is_plain(node) or node.attrs["groups"] > 1:
        return None
    weight = node.inputs[1].data
    assert weight is not None
    k, c = weight.shape[:2]
    reads = np.asarray(weight.any(axis=(2, 3)))
    if reads.sum() > WORTHWHILE * k * c:
        return None
    clusters, size = Clusters.of(reads), min(TILE, k)
    products = sum(size * len(tile.inputs) for tile in clusters.tiles(size))
    return clusters if products <= WORTHWHILE * k * c else None


def _cluster(graph: Graph, node: Node) -> bool:
    clusters = find_clusters(node)
    if clusters is None:
        return False
    groups = ordinary_groups(clusters)
    if groups:
        _group(graph, node, groups)
    else:
        node.attrs["clusters"] = clusters
    return True


def ordinary_groups(clusters: Clusters) -> int:
    """G if the clusters are those of a convolution in G groups, else 0."""
    groups = len(clusters.members)
    if groups < 2 or clusters.in_channels % groups or clusters.out_channels % groups:
        return 0
    kpg, cpg = clusters.out_channels // groups, clusters.in_channels // groups
    for number, cluster in enumerate(clusters.members):
        outs = range(number * kpg, (number + 1) * kpg)
        ins = range(number * cpg, (number + 1) * cpg)
        if cluster.outputs != tuple(outs) or cluster.inputs != tuple(ins):
            return 0
    return groups


def _group(graph: Graph, node: Node, groups: int) -> None:
    """Drop the zeros of a dense convolution that is a grouped one."""
    weight = node.inputs[1].data
    assert weight is not None
    k, c, *_ = weight.shape
    cpg = c // groups
    columns = np.arange(k)[:, None] // (k // groups) * cpg + np.arange(cpg)
    kept = weight[np.arange(k)[:, None], columns]
    node.inputs[1] = graph.constant(node.inputs[1].name, kept)
    node.attrs["groups"] = groups
