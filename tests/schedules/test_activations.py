"""Activations behind kernels that are written in vectors: right, and without calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from edgeconv import strategy
from edgeconv.layout import Layout
from edgeconv.schedules import family
from edgeconv.workload import Conv2d, ConvTask
from tests.schedules.assembly import compiled, matching
from tests.schedules.kernels import Data, Kernels, device, pack, whole_numbers

Attributes = tuple[tuple[str, float], ...]
Function = Callable[[np.ndarray], np.ndarray]

ACTIVATIONS: dict[str, tuple[Attributes, Function]] = {
    "sigmoid": ((), special.expit),
    "silu": ((), lambda x: x * special.expit(x)),
    "swish": ((("alpha", 1.5),), lambda x: x * special.expit(1.5 * x)),
    "tanh": ((), np.tanh),
    "gelu": ((), lambda x: x * special.ndtr(x)),
    "elu": ((("alpha", 0.7),), lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0)))),
    "softplus": ((), lambda x: np.logaddexp(x, 0)),
    "mish": ((), lambda x: x * np.tanh(np.logaddexp(x, 0))),
    "hard_swish": ((), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "exp": ((), lambda x: np.exp(np.minimum(x, 88))),
    "atan": ((), np.arctan),
}
CONVOLUTIONS = {
    "depthwise": Conv2d(1, 16, 7, 9, 16, (3, 3), padding=(1, 1, 1, 1), groups=16),
    "winograd": Conv2d(1, 16, 12, 12, 16, (3, 3), padding=(1, 1, 1, 1)),
    "grouped": Conv2d(1, 16, 6, 6, 16, (3, 3), padding=(1, 1, 1, 1), groups=4),
    "pointwise": Conv2d(1, 16, 6, 6, 16, (1, 1)),
}


def task_of(conv: Conv2d, activation: str) -> ConvTask:
    """In blocks, with a bias."""
    attributes, _ = ACTIVATIONS[activation]
    data = Layout(16, conv.padding)
    return ConvTask(conv, data, Layout(16), True, None, (activation, attributes))


def data_of(task: ConvTask, function: Function) -> Data:
    """Numbers of a size at which activations bend."""
    plain = ConvTask(task.conv, task.data, task.out, task.bias, None, None)
    data = whole_numbers(plain)
    scale = 1 / 64
    return Data(
        data.x,
        data.weight * np.float32(scale),
        data.bias * np.float32(scale),
        data.residual,
        function(data.wanted.astype(np.float64) * scale).astype(np.float32),
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_results(activation: str) -> None:
    kernels = Kernels(device("host"))
    for conv in CONVOLUTIONS.values():
        task = task_of(conv, activation)
        choice = strategy.choose(task, kernels.device)
        data = data_of(task, ACTIVATIONS[activation][1])
        function = choice.family.build(task, choice.knobs, kernels.device)
        weight = choice.family.pack_weights(task, choice.knobs, data.weight)
        bias = choice.family.pack_bias(task, choice.knobs, data.bias)
        title = f"{choice.family.name} {task}"
        kernels.append(title, function, [pack(data.x, task.data), weight, bias], task, data, False)
    kernels.check(3e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "silu", "tanh", "gelu", "elu", "mish"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_no_call_for_an_element(name: str, activation: str) -> None:
    """A library call for each lane made such layers up to twenty times as slow."""
    target = device("x86-avx512")
    task = task_of(CONVOLUTIONS[name], activation)
    if name == "winograd":
        chosen = family("winograd")
    else:
        chosen = strategy.choose(task, target).family
    assembly = compiled(chosen, task, chosen.default_knobs(task, target), target)
    assert not matching(assembly.splitlines(), r"call.*\b(exp|tanh|erf|log)\w*")
