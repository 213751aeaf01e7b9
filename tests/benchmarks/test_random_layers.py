"""Random layers: reproducible, in their class, of sizes that networks have."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from edgeconv.benchmarks import harness, random_layers
from edgeconv.benchmarks.random_layers import CLASSES, LayerClass
from edgeconv.workload import Conv2d

by_class = pytest.mark.parametrize("layer_class", CLASSES, ids=lambda c: c.name)


@by_class
def test_reproducible_and_prefixes_agree(layer_class: LayerClass) -> None:
    sixty = random_layers.draw(layer_class, 60)
    assert random_layers.draw(layer_class, 60) == sixty
    assert random_layers.draw(layer_class, 7) == sixty[:7]
    assert random_layers.draw(layer_class, 60, seed=1) != sixty
    assert len(set(sixty)) == 60


@by_class
def test_all_are_in_their_class_and_in_no_other(layer_class: LayerClass) -> None:
    low, high = layer_class.megaflops
    for conv in random_layers.draw(layer_class, 60):
        assert [c.name for c in CLASSES if c.contains(conv)] == [layer_class.name], str(conv)
        assert low <= 2e-6 * conv.macs <= high, str(conv)


@by_class
def test_the_set_has_the_variety_that_was_asked_for(layer_class: LayerClass) -> None:
    layers = random_layers.draw(layer_class, 60)
    assert {c.stride[0] for c in layers} == {1, 2}
    assert any(c.in_channels % 2 for c in layers)
    assert any(c.height != c.width for c in layers)
    assert 10 <= sum(map(random_layers.chainable, layers)) < 60
    if layer_class.name == "depthwise":
        assert {c.kernel_size[0] for c in layers} == {3, 5, 7}
        assert {c.dilation[0] for c in layers} == {1, 2, 3, 4}
    elif layer_class.name == "dense":
        assert {c.kernel_size[0] for c in layers} == {3, 5, 7}
        assert any(c.in_channels == 3 for c in layers)
    elif layer_class.name != "pointwise":
        assert max(c.dilation[0] for c in layers) > 1


@pytest.mark.parametrize(
    ("conv", "name"),
    [
        (Conv2d(1, 64, 56, 56, 64, (3, 3), padding=(1, 1, 1, 1), groups=8), "grouped_narrow"),
        (Conv2d(1, 64, 56, 56, 64, (3, 3), padding=(1, 1, 1, 1), groups=4), "grouped_wide"),
        (Conv2d(1, 64, 56, 56, 64, (3, 3), padding=(1, 1, 1, 1), groups=64), "depthwise"),
        (Conv2d(1, 64, 56, 56, 64, (1, 1)), "pointwise"),
        (Conv2d(1, 64, 56, 56, 64, (3, 3), padding=(1, 1, 1, 1)), "dense"),
    ],
)
def test_where_known_layers_belong(conv: Conv2d, name: str) -> None:
    assert [c.name for c in CLASSES if c.contains(conv)] == [name]


def test_a_chain_is_four_layers_with_weights_of_their_own() -> None:
    conv = Conv2d(1, 6, 9, 8, 6, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2), groups=3)
    model = random_layers.chain(conv)
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu"] * 4
    weights = [t.raw_data for t in model.graph.initializer]
    assert len(set(weights)) == 8
    inputs = harness.random_inputs(model)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, inputs)
    assert y.shape == (1, 6, 9, 8)
    assert np.isfinite(y).all()
    assert y.min() == 0 < y.max()


def test_what_cannot_be_chained() -> None:
    wider = Conv2d(1, 6, 9, 8, 12, (1, 1))
    strided = Conv2d(1, 6, 9, 8, 6, (3, 3), (2, 2), (1, 1, 1, 1))
    assert not random_layers.chainable(wider)
    assert not random_layers.chainable(strided)
