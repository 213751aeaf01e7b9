"""Clocks, cores and the search for the best knobs, on calls and samples with known answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeconv.benchmarks import default_study, depthwise_bounds, harness, peak_memory, random_layers
from edgeconv.benchmarks.kernels import Bench, Setting, loaded, stored, task_within_network
from edgeconv.layout import Layout
from edgeconv.runtime.buffers import aligned
from edgeconv.schedules import FAMILIES, family
from edgeconv.targets import host, load
from edgeconv.workload import Conv2d

GROUPED = Conv2d(1, 24, 10, 12, 24, (3, 3), padding=(1, 1, 1, 1), groups=6)


def busy(seconds: float) -> Callable[[], None]:
    """A call that takes this long."""

    def call() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return call


def test_engines_in_turns() -> None:
    timed = harness.time_in_turns({"a": busy(1e-3), "b": busy(2e-3)}, 0.4, rounds=5)
    medians = {n: harness.timing(*s, 0.0, 0.0).median_ms for n, s in timed.items()}
    assert medians["a"] == pytest.approx(1, rel=0.3)
    assert medians["b"] == pytest.approx(2, rel=0.3)


def test_disturbed_calls_count_only_if_there_are_too_few_others() -> None:
    good = harness.timing([1.0] * 5, [9.0] * 50, 0.0, 0.0)
    assert (good.median_ms, good.dropped, good.disturbed) == (1.0, 50, 0)
    few = harness.timing([1.0] * 4, [9.0] * 5, 0.0, 0.0)
    assert (few.median_ms, few.dropped, few.disturbed) == (9.0, 0, 5)


def test_preparing_leaves_the_measuring_core_alone(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")
    try:
        cores = harness.Cores(1, tmp_path / "lock")
        assert os.sched_getaffinity(0) == allowed - {max(allowed)}
        with cores.for_measuring():
            assert os.sched_getaffinity(0) == {max(allowed)}
        assert os.sched_getaffinity(0) == allowed - {max(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("layout", [Layout(4, (1, 2, 3, 0)), Layout(6), Layout(1, (0, 1, 0, 1))])
def test_values_survive_a_layout(layout: Layout) -> None:
    values = np.random.default_rng(0).standard_normal((2, 6, 3, 5), np.float32)
    buffer = stored(values, layout)
    assert np.array_equal(loaded(buffer, layout, values.shape), values)
    assert np.count_nonzero(buffer) == values.size


def test_kernels_of_all_families_agree() -> None:
    device = host()
    task = task_within_network(GROUPED, device)
    assert task.conv == GROUPED
    assert task.bias
    assert task.activation is not None
    settings = [
        Setting(f, f.default_knobs(task, device))
        for f in FAMILIES
        if f.supports(task, device) is None
    ]
    bench = Bench(task, device)
    outputs = []
    for call in bench.compile(settings):
        call()
        outputs.append(bench.output)
    assert outputs[0].max() > 0 == outputs[0].min()
    for output in outputs[1:]:
        assert harness.relative_error([output], [outputs[0]]) < 1e-5


def test_candidates_are_all_or_a_sample_with_the_best_estimates() -> None:
    device = load("x86-avx512")
    task = task_within_network(GROUPED, device)
    spatial = family("grouped_spatial_pack")
    every, total = default_study.candidates(task, spatial, device, 10_000)
    assert len(every) == len(set(every)) == total > 20
    assert every[0] == spatial.default_knobs(task, device)
    assert set(every) == {*spatial.candidates(task, device)}
    some, again = default_study.candidates(task, spatial, device, 11)
    assert (len(some), len(set(some)), again) == (11, 11, total)
    ranked = sorted(set(every) - {every[0]}, key=lambda k: spatial.estimate(task, k, device))
    costs = [spatial.estimate(task, k, device) for k in some[1:6]]
    assert costs == [spatial.estimate(task, k, device) for k in ranked[:5]]


def test_the_search_finds_the_fastest_call() -> None:
    calls = [busy(s) for s in (8e-4, 2e-3, 4e-4, 9e-4)]
    assert default_study.leaders(calls)[0] == 2
    assert 1 not in default_study.leaders(calls)


def test_the_winner_is_picked_on_other_rounds_than_the_ratio_comes_from() -> None:
    default = [2.0, 2.0] * 10
    lucky = [1.0, 3.0] * 10  # fast where the winner is picked, slow where it is timed
    steady = [1.5, 1.5] * 10
    assert default_study.verdict([default, lucky, steady]) == (1, 3.0, 2.0)
    assert default_study.verdict([default, steady]) == (1, 1.5, 2.0)


def test_multiply_adds_that_meet_the_image() -> None:
    shape = {"padding": (2, 3, 1, 0), "dilation": (1, 2), "groups": 4}
    conv = Conv2d(2, 4, 7, 9, 4, (3, 2), (2, 3), **shape)  # type: ignore[arg-type]
    image = np.zeros((7 + 3, 9 + 3), np.int64)
    image[2:9, 3:12] = 1
    taps = sum(
        image[2 * y + kh, 3 * x + 2 * kw]
        for y in range(conv.out_height)
        for x in range(conv.out_width)
        for kh in range(3)
        for kw in range(2)
    )
    assert depthwise_bounds.multiply_adds(conv) == 2 * 4 * taps < conv.macs


def test_copies_copy() -> None:
    source = aligned((64 * 5,), "float32")
    source[:] = np.random.default_rng(0).random(source.size)
    for name in ("vectors", "NumPy"):
        target = aligned(source.shape, "float32", zero=True)
        depthwise_bounds.copies(source, target, host())[name]()
        np.testing.assert_array_equal(target, source)
    assembly = depthwise_bounds.vector_copy(64, host()).inspect_source("asm")
    assert "copy:" in assembly
    assert "memcpy" not in assembly


@pytest.mark.slow
def test_peak_memory_grows_with_the_network() -> None:
    bare = peak_memory.measure(peak_memory.bare_network(), 1, repeats=1)
    conv = Conv2d(1, 256, 112, 112, 256, (1, 1))  # 12 MiB an activation
    large = peak_memory.measure(random_layers.alone(conv), 1, repeats=1)
    for engine in peak_memory.ENGINES:
        assert large[engine] - bare[engine] > 20
