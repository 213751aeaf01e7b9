"""The tuner's reference agrees with the tests' own, and its check sees what a kernel does wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgeconv.layout import Layout
from edgeconv.targets import Device
from edgeconv.tuning import bench, kernels, numbers
from edgeconv.tuning.candidates import Candidate, space
from edgeconv.workload import Activation, Conv2d, ConvTask, Place, Slices
from tests.e2e.models import convolution
from tests.schedules.test_depthwise_branches import cases as branch_cases
from tests.tuning.making import RELU, device, every_kind_of_task


@pytest.mark.parametrize(
    "conv",
    [
        Conv2d(2, 6, 7, 9, 4, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 2),
        Conv2d(1, 8, 6, 5, 8, (3, 3), padding=(-1, 2, 1, -2), groups=8),
        Conv2d(1, 8, 5, 5, 8, (1, 1), groups=4, input_shuffle=2),
    ],
    ids=str,
)
def test_the_reference(conv: Conv2d) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, (conv.batch, conv.in_channels, conv.height, conv.width))
    w = rng.integers(-4, 5, (conv.out_channels, conv.in_channels_per_group, *conv.kernel_size))
    x, w = x.astype(np.float32), w.astype(np.float32)
    order = np.arange(conv.in_channels).reshape(conv.input_shuffle, -1).T.reshape(-1)
    top, left, bottom, right = (max(-p, 0) for p in conv.padding)
    cut = x[:, order][:, :, top : conv.height - bottom, left : conv.width - right]
    padding = tuple(max(p, 0) for p in conv.padding)
    wanted = convolution(
        cut,
        w,
        stride=conv.stride,
        padding=padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )
    assert np.array_equal(numbers.convolution(conv, x, w), wanted)


def here(threads: int = 1) -> Device:
    return device("host", threads)


def with_lanes(task: ConvTask) -> ConvTask:
    """The task as the host would lay it out."""
    block = here().lanes
    changes: dict[str, Any] = dict(
        data=Layout(block, (2, 2, 2, 2)), out=Layout(block, (1, 0, 0, 1))
    )
    if task.residual is not None:
        changes["residual"] = Layout(block)
    return dataclasses.replace(task, **changes)


def measured(
    task: ConvTask, candidates: list[Candidate], plan: bench.Plan | None = None
) -> list[bench.Outcome]:
    """Outcomes of candidates in this process."""
    bench.open_session(None, 0)
    library = kernels.build_library(task, here(), candidates)
    members = [(c, i) for i, c in enumerate(candidates)]
    plan = plan or bench.Plan(rounds=2, block_s=1e-4)
    return bench.measure(task, here(), [(library, members)], plan, lambda number: None)


TUNED = every_kind_of_task()


@pytest.mark.parametrize("number", range(len(TUNED)))
def test_kernels_of_all_families_pass_the_check(number: int) -> None:
    task = with_lanes(TUNED[number])
    chosen = {c.family: c for c in reversed(space(task, here(), exact=False))}
    outcomes = measured(task, list(chosen.values()))
    assert [o.fault for o in outcomes] == [""] * len(chosen)
    assert all(o.samples_us for o in outcomes)


def test_depthwise_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summed or concatenated, each with its activation, in blocks and on rows; a kernel with the
    filters of its branches in another order is wrong.
    """
    families = set()
    for task, _ in branch_cases(5, 6, here()):
        found = space(task, here(), exact=False)
        small = sorted(found, key=lambda c: c.values["rows"] * c.values["columns"])
        candidates = list({c.family: c for c in reversed(small)}.values())
        families |= {c.family for c in candidates}
        assert {o.fault for o in measured(task, candidates)} == {""}
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "packed", reversed_filters(kernels.packed))
            assert all(o.fault.startswith("wrong result") for o in measured(task, candidates))
    assert families == {"depthwise_branches", "depthwise_branch_rows"}


def reversed_filters(packed: Any) -> Any:
    """`packed` of the last tap first."""

    def wrong(task: Any, on: Any, candidate: Candidate, weights: Any, biases: Any) -> Any:
        return packed(task, on, candidate, [weights[0][:, ::-1]], biases)

    return wrong


ACTIVATIONS: list[Activation] = [
    ("clip", (("high", 6.0), ("low", 0.0))),
    ("hard_swish", ()),
    ("leaky_relu", (("alpha", 0.1),)),
    ("relu", ()),
    ("silu", ()),
    ("tanh", ()),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_activations(activation: Activation) -> None:
    task = with_lanes(every_kind_of_task()[0])
    task = dataclasses.replace(task, activation=activation, bias=False)
    candidate = space(task, here(), exact=True)[0]
    assert [o.fault for o in measured(task, [candidate])] == [""]


SIMPLE = ConvTask(
    Conv2d(1, 16, 8, 8, 16, (3, 3), padding=(1, 1, 1, 1)),
    Layout(16, (1, 1, 1, 1)),
    Layout(16, (0, 1, 1, 0)),
    True,
    None,
    RELU,
)


def right() -> np.ndarray:
    return numbers.whole_numbers(SIMPLE).out.copy()


def test_a_right_result_passes() -> None:
    assert numbers.fault(SIMPLE, right(), right(), exact=True) is None


@pytest.mark.parametrize("exact", [False, True])
def test_one_wrong_product_is_seen(exact: bool) -> None:
    got = right()
    inside = got[:, :, 0:8, 1:9]
    inside[0, 0, 3, 3, 2] += 1
    fault = numbers.fault(SIMPLE, right(), got, exact)
    assert fault is not None
    assert fault.startswith("wrong result: off by 1 ")


def test_rounding_is_wrong_where_sums_are_exact() -> None:
    got = right()
    got[0, 0, 3, 3, 2] += 1e-3
    assert numbers.fault(SIMPLE, right(), got, exact=True) is not None
    assert numbers.fault(SIMPLE, right(), got, exact=False) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_wrong(value: float) -> None:
    got = right()
    got[0, 0, 3, 3, 2] = value
    assert numbers.fault(SIMPLE, right(), got, exact=False) is not None


def test_writing_into_the_halo_is_wrong() -> None:
    got = right()
    got[0, 0, 8, 3, 2] = 0
    assert numbers.fault(SIMPLE, right(), got, exact=True) == "wrote outside its output"


def test_an_output_that_was_not_written_is_wrong() -> None:
    got = np.full_like(right(), numbers.UNTOUCHED)
    assert numbers.fault(SIMPLE, right(), got, exact=False) is not None


def test_the_pixels_between_those_of_a_place_stay() -> None:
    task = dataclasses.replace(SIMPLE, place=Place((16, 17), (1, 0), (2, 2)))
    wanted = numbers.whole_numbers(task).out
    inside = wanted[:, :, 0:16, 1:18]
    assert (inside[:, :, 0::2] == numbers.UNTOUCHED).all()
    assert (inside[:, :, 1::2, 1::2] == numbers.UNTOUCHED).all()
    assert (inside[:, :, 1::2, 0:16:2] != numbers.UNTOUCHED).all()


def test_slices_of_volumes() -> None:
    s = Slices(4, 2, 3, 1, 1, 0, 0, 1, 2)
    conv = Conv2d(2, 2, 3, 3, 2, (1, 1), slices=s)
    x = np.arange(4 * 2 * 9, dtype=np.float32).reshape(4, 2, 3, 3)
    w = np.ones((2, 2, 3, 1), np.float32)
    got = numbers.convolution(conv, x, w)
    for image in range(2):
        assert np.array_equal(got[image, 0], x[image : image + 3].sum(axis=(0, 1)))
