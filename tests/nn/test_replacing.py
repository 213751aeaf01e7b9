"""`edgeconv.nn.replace`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgeconv.errors import EdgeconvError
from edgeconv.nn import (
    DDC,
    BSConvS,
    BSConvU,
    GroupedBottleneck,
    SlidingChannelConv2d,
    replace,
)
from tests.nn.exporting import check, with_statistics

BLOCKS: list[tuple[Any, dict[str, Any]]] = [
    (BSConvU, {}),
    (BSConvU, {"batch_norm": True}),
    (BSConvS, {"p": 1 / 6}),
    (DDC, {}),
    (DDC, {"branches": ((3, 1), (5, 2)), "combine": "concat"}),
    (GroupedBottleneck, {"groups": 4}),
    (SlidingChannelConv2d, {"channel_groups": 4, "overlap": 0.5}),
]


def network() -> nn.Sequential:
    """Every kind of convolution; the last two are one module."""
    shared = nn.Conv2d(16, 16, 3, padding="same", dilation=2, bias=False)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Conv2d(16, 16, 1),
        nn.Sequential(nn.ReLU(), shared, nn.ReLU(), shared),
    ).eval()


@pytest.mark.parametrize(("block", "options"), BLOCKS)
def test_shapes_are_kept(block: Any, options: dict[str, Any]) -> None:
    model = network()
    done = replace(model, block, **options)
    assert {"1", "4.1"} <= {r.name for r in done.replaced}
    assert type(model[1]) is nn.Conv2d  # a copy was changed
    x = torch.randn(2, 3, 17, 20)
    assert done.model(x).shape == model(x).shape
    assert done.model[4][1] is done.model[4][3]
    assert not any(m.training for m in done.model.modules())
    check(with_statistics(done.model), x)


def test_reasons() -> None:
    done = replace(network(), BSConvU, where=lambda name, conv: name != "4.1")
    assert [(k.name, k.reason) for k in done.kept] == [
        ("0", "it is the first"),
        ("2", "it has 4 groups"),
        ("3", "it is 1×1"),
        ("4.1", "`where` says so"),
    ]
    assert [(r.name, r.before, r.after) for r in done.replaced] == [("1", 1152, 8 * 16 + 9 * 16)]
    assert "1: 1,152 parameters, now 272\n" in str(done)


def test_in_place_and_the_first() -> None:
    model = network()
    done = replace(model, BSConvU, keep_first=False, in_place=True)
    assert done.model is model
    assert isinstance(model[0], BSConvU)
    assert model[0].depthwise.bias is not None
    assert model[1].depthwise.bias is None


def test_blocks_are_not_replaced_again() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), GroupedBottleneck(8, 8, groups=1), BSConvU(8, 8))
    done = replace(model, BSConvS)
    assert not done.replaced
    assert [k.name for k in done.kept] == ["0"]


def test_what_does_not_fit_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.Conv2d(10, 12, 3), nn.Conv2d(12, 8, (2, 3)))
    done = replace(model, GroupedBottleneck, groups=4)
    assert [r.name for r in done.replaced] == ["2"]
    assert done.kept[1].reason == "10 channels do not divide into 4 groups"
    done = replace(model, DDC)
    assert [r.name for r in done.replaced] == ["1"]
    assert "can't have its output size" in done.kept[1].reason


def test_subclasses_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
    )
    assert replace(model, BSConvU).kept[1].reason == "it is a ParametrizedConv2d"


def test_sliding_channels_replace_pointwise() -> None:
    done = replace(network(), SlidingChannelConv2d, channel_groups=2)
    assert {"3", "1"} <= {r.name for r in done.replaced}
    assert isinstance(done.model[3], SlidingChannelConv2d)
    padded = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, padding=1))
    assert replace(padded, SlidingChannelConv2d).kept[1].reason == "a padded 1×1 convolution"


def test_type_and_mode_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding_mode="reflect", padding=1))
    block = replace(model.double().train(), BSConvS, batch_norm=True).model[1]
    assert block.training
    assert {p.dtype for p in block.parameters()} == {torch.float64}
    assert block.depthwise.padding_mode == "reflect"


def test_refusals() -> None:
    with pytest.raises(EdgeconvError, match="no from_conv"):
        replace(network(), nn.Conv2d)
    lone = nn.Conv2d(3, 8, 3)
    with pytest.raises(EdgeconvError, match="in place"):
        replace(lone, BSConvU, keep_first=False, in_place=True)
    assert isinstance(replace(lone, BSConvU, keep_first=False).model, BSConvU)
