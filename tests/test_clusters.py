"""Which output channels read which inputs: clusters, their tiles, and their names."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeconv.clusters import Clusters
from edgeconv.workload import Conv2d


def sliding(channels: int, filters: int, width: int, step: int) -> Clusters:
    """Windows of `width` channels, `step` apart, round to the first channels."""
    reads = np.zeros((filters, channels), bool)
    for k in range(filters):
        reads[k, (k * step + np.arange(width)) % channels] = True
    return Clusters.of(reads)


def drawn(rng: np.random.Generator) -> Clusters:
    """Clusters of any sizes, some of whose inputs are shared, or of nobody."""
    k, c, n = (int(rng.integers(1, high)) for high in (50, 40, 9))
    reads = (rng.random((n, c)) < rng.uniform(0, 1))[rng.integers(0, n, k)]
    return Clusters.of(reads)


def test_windows_are_in_the_order_of_their_starts() -> None:
    clusters = sliding(12, 24, 6, 3)
    assert [c.outputs[0] for c in clusters.members] == [0, 1, 2, 3]
    assert clusters.members[3].inputs == (0, 1, 2, 9, 10, 11)
    assert clusters.members[1].outputs == (1, 5, 9, 13, 17, 21)
    assert clusters.window == 6
    assert str(clusters) == "windows4x6"
    assert clusters.products == 24 * 6


@pytest.mark.parametrize(
    "reads",
    [
        np.ones((4, 6), bool),  # one window
        np.kron(np.eye(2), np.ones((3, 4))).astype(bool),  # no overlap: ordinary groups
        np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool),  # of two sizes
        np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]], bool),  # with a gap
        np.zeros((3, 4), bool),
    ],
)
def test_what_is_not_sliding(reads: np.ndarray) -> None:
    clusters = Clusters.of(reads)
    assert clusters.window == 0
    assert str(clusters) == f"clusters{len(clusters.members)},{reads.sum()}"


@pytest.mark.parametrize("seed", range(20))
def test_tiles_hold_each_output_once_and_all_it_reads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = drawn(rng)
    reads = clusters.reads()
    assert Clusters.of(reads) == clusters
    assert clusters.products == reads.sum()
    for size in (1, 3, 8, 64):
        for tiles in (clusters.tiles(size), clusters.runs(size)):
            outputs = [k for tile in tiles for k in tile.outputs]
            assert sorted(outputs) == list(range(len(reads)))
            for tile in tiles:
                assert 0 < len(tile.outputs) <= size
                assert set(tile.inputs) == set(np.flatnonzero(reads[list(tile.outputs)].any(0)))
        assert [k for tile in clusters.runs(size) for k in tile.outputs] == [*range(len(reads))]


def test_small_clusters_share_a_tile_only_where_that_saves() -> None:
    far = Clusters.of(np.kron(np.eye(2), np.ones((6, 50))).astype(bool))
    assert len(far.tiles(8)) == 2  # three tiles of four would read 150 inputs, two 100
    near = sliding(64, 16, 16, 1)
    assert [len(tile.outputs) for tile in near.tiles(4)] == [4] * 4
    assert sum(len(tile.inputs) for tile in near.tiles(4)) == 4 * 19
    full = sliding(32, 64, 8, 4)
    assert sum(len(t.inputs) for t in full.tiles(8)) == 8 * 8  # nothing multiplied by zero


def test_workloads_are_named_and_counted() -> None:
    dense = Conv2d(1, 12, 5, 5, 24, (1, 1))
    slid = Conv2d(1, 12, 5, 5, 24, (1, 1), clusters=sliding(12, 24, 6, 3))
    ragged = np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool)
    self_grouped = Conv2d(1, 4, 5, 5, 2, (3, 3), dilation=(2, 2), clusters=Clusters.of(ragged))
    assert (slid.kind, self_grouped.kind) == ("sliding-channel", "dilated ragged groups")
    assert slid.macs * 2 == dense.macs
    assert str(slid) == f"{dense} windows4x6"
    assert str(self_grouped).endswith("clusters2,5")
    assert len({dense, slid, self_grouped, dataclasses.replace(slid)}) == 3
