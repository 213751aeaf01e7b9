"""Where convolutions of clusters work on row-major maps."""

from __future__ import annotations

import pytest

from edgeconv.clusters import Clusters
from edgeconv.graph import cluster_layout
from edgeconv.workload import Conv2d
from tests.test_clusters import sliding

LANES = 16
DEPTHWISE = Conv2d(1, 64, 14, 14, 64, (3, 3), padding=(1, 1, 1, 1), groups=64)
DENSE = Conv2d(1, 64, 14, 14, 64, (3, 3), padding=(1, 1, 1, 1))


def conv(clusters: Clusters, size: int = 14) -> Conv2d:
    channels = (clusters.in_channels, clusters.out_channels)
    return Conv2d(1, channels[0], size, size, channels[1], (1, 1), clusters=clusters)


HALF, MOST = sliding(64, 64, 32, 16), sliding(64, 64, 56, 8)


@pytest.mark.parametrize(
    ("clusters", "data", "reader", "wanted"),
    [
        (HALF, 16, DENSE, True),  # 32 products saved, two transposes
        (MOST, 16, DENSE, False),
        (MOST, 0, DENSE, False),
        (MOST, 0, DEPTHWISE, True),
        (MOST, 0, conv(HALF), True),
        (MOST, 0, None, True),
        (MOST, 16, None, False),
    ],
)
def test_rows_pay_where_copies_cost_less_than_products(
    clusters: Clusters, data: int, reader: Conv2d | None, wanted: bool
) -> None:
    assert cluster_layout.prefers_rows(conv(clusters), data, [reader], LANES) == wanted


def test_what_the_kernel_on_rows_takes() -> None:
    assert cluster_layout.accepts(conv(HALF), LANES)
    assert not cluster_layout.accepts(conv(HALF, 3), LANES)
    assert not cluster_layout.accepts(DENSE, LANES)
    assert not cluster_layout.accepts(None, LANES)
    wide = Conv2d(1, 64, 14, 14, 64, (3, 3), clusters=HALF)
    assert not cluster_layout.accepts(wide, LANES)


def test_depthwise_convolutions_write_rows_for_them() -> None:
    assert cluster_layout.feeds(DEPTHWISE, LANES, [conv(HALF)], LANES)
    assert cluster_layout.feeds(DEPTHWISE, 0, [conv(HALF), conv(MOST)], LANES)
    assert not cluster_layout.feeds(DEPTHWISE, 0, [conv(HALF), DENSE], LANES)
    assert not cluster_layout.feeds(DENSE, LANES, [conv(HALF)], LANES)
    assert not cluster_layout.feeds(DEPTHWISE, LANES, [], LANES)
