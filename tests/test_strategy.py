"""The strategy takes the cheapest family that supports a task, and says why not the others."""

from __future__ import annotations

import pytest

from edgeconv import strategy, targets
from edgeconv.errors import BuildError
from edgeconv.layout import Layout
from edgeconv.schedules import FAMILIES
from edgeconv.workload import Conv2d, ConvTask

CONVOLUTIONS = {
    "dense": Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1)),
    "pointwise": Conv2d(1, 64, 28, 28, 128, (1, 1)),
    "grouped": Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1), groups=16),
    "depthwise": Conv2d(1, 64, 28, 28, 64, (3, 3), padding=(1, 1, 1, 1), groups=64),
    "ragged": Conv2d(1, 30, 7, 7, 45, (3, 3), groups=15),
}


@pytest.mark.parametrize("target", ["host", *(n for n in targets.names() if n != "host")])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("exact", [False, True])
def test_the_cheapest_supporting_family(name: str, target: str, exact: bool) -> None:
    conv, device = CONVOLUTIONS[name], targets.load(target)
    task = ConvTask(conv, Layout(conv.in_channels, conv.padding), Layout(conv.out_channels))
    choice = strategy.choose(task, device, exact=exact)
    costs = {}
    refused = {}
    for family in FAMILIES:
        mismatch = family.supports(task, device)
        if exact and not family.exact:
            refused[family.name] = "numerics are to be exact"
        elif mismatch is None:
            costs[family.name] = family.estimate(task, family.default_knobs(task, device), device)
        else:
            refused[family.name] = mismatch.reason
    assert choice.family.name == min(costs, key=lambda n: costs[n])
    assert choice.knobs == choice.family.default_knobs(task, device)
    assert dict(choice.refused) == refused
    assert "estimated" in choice.reason
    words = choice.knobs_text.split()
    assert all("=" in w for w in words)
    assert f"lanes={choice.knobs.lanes}" in words


def test_the_same_task_gets_the_same_choice() -> None:
    conv, device = CONVOLUTIONS["dense"], targets.load("raspberry-pi-4")
    task = ConvTask(conv, Layout(4, conv.padding), Layout(4))
    assert strategy.choose(task, device) == strategy.choose(task, device)


def test_a_task_nobody_takes_is_an_error_with_reasons() -> None:
    conv, device = CONVOLUTIONS["dense"], targets.load("raspberry-pi-4")
    with pytest.raises(BuildError, match=r"no schedule for 64x28x28->64 k3x3.*layout"):
        strategy.choose(ConvTask(conv, Layout(), Layout()), device, exact=True)
