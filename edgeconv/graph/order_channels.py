"""Let output channels of one cluster follow each other, where nobody minds their order.

A kernel on channel blocks stores vectors of neighbouring channels. If a convolution's clusters are
strewn over its outputs, all of its component (see channel_components) is permuted: the rows of
weights that make the channels, the filters that keep them apart, the columns that read them.
"""

from __future__ import annotations

import numpy as np

from edgeconv.clusters import Clusters
from edgeconv.graph.channel_components import Component, components
from edgeconv.graph.cluster_channels import find_clusters
from edgeconv.graph.ir import Graph, Node

GAIN = 0.95  # of the products; below it an order is worth a permutation


def order_channels(graph: Graph, lanes: int) -> int:
    """Permute every component that holds outputs of clusters; how many were."""
    return sum(_order(graph, component, lanes) for component in components(graph))


def _order(graph: Graph, component: Component, lanes: int) -> bool:
    found = [(node, clusters) for node in component.makers if (clusters := _clusters(node))]
    if not found:
        return False
    # the component has one order: that of the convolution with the most products
    _, clusters = max(found, key=lambda pair: _products(*pair))
    order = best_order(clusters, lanes)
    if order is None:
        return False
    component.take(graph, order)
    return True


def _clusters(node: Node) -> Clusters | None:
    """The clusters of a convolution that the kernel on planes does not take."""
    pointwise = node.inputs[1].shape[2:] == (1, 1) and node.attrs["stride"] == (1, 1)
    return None if pointwise else find_clusters(node)


def _products(node: Node, clusters: Clusters) -> int:
    return int(np.prod(node.inputs[1].shape[2:])) * clusters.products


def best_order(clusters: Clusters, lanes: int) -> np.ndarray | None:
    """Output channels in the order in which runs of `lanes` read the fewest inputs; None if the one
    they have is as good.
    """
    reads = clusters.reads()

    def cost(order: np.ndarray) -> int:
        runs = (reads[order[i : i + lanes]] for i in range(0, len(order), lanes))
        return sum(int(run.any(0).sum()) for run in runs)

    tiles = sorted(clusters.tiles(lanes), key=lambda tile: len(tile.outputs) < lanes)
    orders = [
        np.array([k for cluster in clusters.members for k in cluster.outputs]),
        np.array([k for tile in tiles for k in tile.outputs]),
    ]
    best = min(orders, key=cost)
    return best if cost(best) < GAIN * cost(np.arange(len(best))) else None
