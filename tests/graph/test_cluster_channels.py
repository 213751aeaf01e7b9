"""Blocks of zeros in dense weights: clusters, ordinary groups, and the order of channels."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.clusters import Clusters
from edgeconv.graph.cluster_channels import cluster_channels
from edgeconv.graph.findings import findings
from edgeconv.graph.ir import Graph, Value
from edgeconv.graph.order_channels import best_order, order_channels
from edgeconv.graph.parts import parts
from tests.graph.graphs import Maker, Unchanged, only

LANES = 8


class Masked(Maker):
    """Makes convolutions with zeros in their weights."""

    def masked(self, x: Value, reads: np.ndarray, kernel: int = 3, **kwargs: object) -> Value:
        """A dense convolution whose output k reads input c where reads[k, c]."""
        weight = self.constant(*reads.shape, kernel, kernel)
        assert weight.data is not None
        weight.data[~reads] = 0
        return self.conv(x, len(reads), kernel, weight=weight, **kwargs)  # type: ignore[arg-type]


def groups(outputs: int, inputs: int, count: int, seed: int = 0) -> np.ndarray:
    """Clusters of unequal size with channels anywhere."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, count, outputs)[:, None] == rng.integers(0, count, inputs)


def found(graph: Graph) -> list[Clusters | None]:
    return [n.attrs.get("clusters") for n in graph.nodes if n.op == "conv2d"]


@pytest.mark.parametrize("kernel", [1, 3])
def test_clusters_of_unequal_size(kernel: int) -> None:
    maker, reads = Masked(), groups(21, 15, 4)
    graph = maker.done(maker.masked(maker.input(1, 15, 5, 5), reads, kernel, bias=True))
    with Unchanged(graph):
        assert cluster_channels(graph) == 1
    (clusters,) = found(graph)
    assert clusters is not None
    assert np.array_equal(clusters.reads(), reads)
    (part,) = parts(only(graph, "conv2d"))
    assert part.conv.kind == "ragged groups"
    assert part.conv.macs == 25 * kernel**2 * reads.sum()
    assert cluster_channels(graph) == 0
    assert findings(graph) == ("ragged groups: 1 convolution recognised",)


def test_zeros_in_some_taps_only_are_not_left_out() -> None:
    maker = Masked()
    graph = maker.done(maker.masked(maker.input(1, 12, 5, 5), groups(16, 12, 3)))
    weight = only(graph, "conv2d").inputs[1]
    assert weight.data is not None
    weight.data[:, :, 1, 1] = 1
    assert cluster_channels(graph) == 0


def test_ordinary_groups() -> None:
    maker = Masked()
    reads = np.kron(np.eye(3), np.ones((4, 5))).astype(bool)
    graph = maker.done(maker.masked(maker.input(1, 15, 5, 5), reads, bias=True))
    with Unchanged(graph):
        assert cluster_channels(graph) == 1
    node = only(graph, "conv2d")
    assert (node.attrs["groups"], node.inputs[1].shape) == (3, (12, 5, 3, 3))
    assert found(graph) == [None]


def test_groups_in_another_order_are_clusters() -> None:
    maker = Masked()
    reads = np.kron(np.eye(3), np.ones((8, 5))).astype(bool)
    reads = reads[np.random.default_rng(0).permutation(24)]
    graph = maker.done(maker.masked(maker.input(1, 15, 5, 5), reads))
    with Unchanged(graph):
        assert cluster_channels(graph) == 1
    (clusters,) = found(graph)
    assert clusters is not None
    assert len(clusters.members) == 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_zeros_here_and_there_are_left(share: float) -> None:
    maker = Masked()
    reads = np.random.default_rng(0).random((40, 40)) > share
    graph = maker.done(maker.masked(maker.input(1, 40, 5, 5), reads))
    # of a tenth, eight filters together read about half
    assert cluster_channels(graph) == (share == 0.9)


def test_few_zeros_are_left() -> None:
    maker = Masked()
    reads = np.ones((16, 16), bool)
    reads[:3, :12] = False
    assert cluster_channels(maker.done(maker.masked(maker.input(1, 16, 5, 5), reads))) == 0


def test_grouped_convolutions_are_left() -> None:
    maker = Masked()
    weight = maker.constant(16, 8, 3, 3)
    assert weight.data is not None
    weight.data[:4, :6] = 0
    graph = maker.done(maker.conv(maker.input(1, 16, 5, 5), 16, groups=2, weight=weight))
    assert cluster_channels(graph) == 0


# order


def test_the_best_order_puts_clusters_together() -> None:
    reads = groups(48, 30, 3)
    clusters = Clusters.of(reads)
    order = best_order(clusters, LANES)
    assert order is not None
    assert sorted(order) == list(range(48))
    runs = Clusters.of(reads[order]).runs(LANES)
    assert sum(len(t.inputs) for t in runs) < sum(len(t.inputs) for t in clusters.runs(LANES)) / 2
    assert best_order(Clusters.of(reads[order]), LANES) is None


def test_channels_are_ordered_through_what_keeps_them_apart() -> None:
    maker = Masked()
    y = maker.masked(maker.input(1, 20, 6, 6), groups(32, 20, 4), bias=True)
    y = maker.pool(maker.node("relu", y))
    y = maker.conv(y, 32, groups=32, bias=True)
    y = maker.node("multiply", y, maker.constant(32, 1, 1))
    graph = maker.done(maker.conv(y, 5, 1))
    with Unchanged(graph):
        assert order_channels(graph, LANES) == 1
        assert order_channels(graph, LANES) == 0
    assert cluster_channels(graph) == 1


def test_sums_have_one_order() -> None:
    maker = Masked()
    x = maker.input(1, 20, 6, 6)
    a, b = (maker.masked(x, groups(32, 20, 4, seed)) for seed in range(2))
    graph = maker.done(maker.conv(maker.node("add", a, b), 5))
    with Unchanged(graph):
        assert order_channels(graph, LANES) == 1


def test_the_order_of_outputs_stays() -> None:
    maker = Masked()
    graph = maker.done(maker.masked(maker.input(1, 20, 6, 6), groups(32, 20, 4)))
    assert order_channels(graph, LANES) == 0


def test_readers_by_number_keep_the_order() -> None:
    maker = Masked()
    y = maker.masked(maker.input(1, 20, 6, 6), groups(32, 20, 4))
    graph = maker.done(maker.conv(y, 8, groups=4))
    assert order_channels(graph, LANES) == 0


def test_pointwise_kernels_need_no_order() -> None:
    maker = Masked()
    y = maker.masked(maker.input(1, 20, 6, 6), groups(32, 20, 4), 1)
    assert order_channels(maker.done(maker.conv(y, 8)), LANES) == 0
