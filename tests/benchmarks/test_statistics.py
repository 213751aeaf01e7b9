"""Intervals, paired ratios, samples as text, and rounds: on numbers with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeconv.benchmarks import noise, statistics
from edgeconv.benchmarks.harness import Measured, timing_by_round
from edgeconv.benchmarks.rounds import WARM_UP, Pace, Samples, interleave
from tests.benchmarks.results import measured


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        rounds = rng.lognormal(0.0, 0.1, (20, 5)).tolist()
        found = statistics.median(rounds, seed)
        assert found.low <= found.value <= found.high
        hits += found.low <= 1.0 <= found.high
    assert 180 <= hits <= 199  # 95 % of 200, give or take


def test_rounds_that_share_their_luck_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    luck = rng.lognormal(0.0, 0.1, 20)
    together = [[float(x)] * 10 for x in luck]
    apart = rng.permutation(np.repeat(luck, 10)).reshape(20, 10).tolist()
    wide, narrow = statistics.median(together), statistics.median(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_empty_rounds_do_not_count() -> None:
    assert statistics.median([[], [1.0, 3.0], [], [2.0]]).value == 2.0
    with pytest.raises(ValueError, match="no calls"):
        statistics.median([[], []])


def test_paired_ratios_cancel_what_a_round_has_in_common() -> None:
    speeds = [1.0, 5.0, 0.2, 3.0, 2.0, 9.0]
    own = [[s] * 3 for s in speeds]
    other = [[1.5 * s] * 2 for s in speeds]
    found = statistics.paired_ratio(other, own)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    partly = statistics.paired_ratio([[3.0], [], [4.0]], [[], [1.0], [2.0]])
    assert partly is not None
    assert partly.value == 2.0
    assert statistics.paired_ratio([[], [1.0]], [[1.0], []]) is None


calls = st.lists(st.floats(1e-3, 1e3), max_size=4)


@given(st.lists(st.tuples(calls, calls), min_size=1, max_size=5))
def test_samples_survive_as_text(rounds: list[tuple[list[float], list[float]]]) -> None:
    good, bad = [g for g, _ in rounds], [b for _, b in rounds]
    again = statistics.samples_from_text(statistics.samples_to_text(good, bad))
    for found, wanted in zip(again, (good, bad), strict=True):
        assert [len(r) for r in found] == [len(r) for r in wanted]
        for a, b in zip(found, wanted, strict=True):
            assert a == pytest.approx(b, rel=1e-3)


def test_a_steady_loop_and_two_that_are_not() -> None:
    assert not noise.to_json([1.0, 1.05] * 10)["noisy"]
    assert not noise.to_json([1.0] * 30 + [9.0])["noisy"]  # one round is no drift
    drifting = noise.to_json([1.0] * 10 + [1.3] * 10)
    assert drifting["noisy"]
    assert "30% longer" in noise.sentence(drifting)
    stolen = noise.to_json([1.0] * 10, disturbed=0.5)
    assert stolen["noisy"]
    assert "50% of the calls" in noise.sentence(stolen)


def test_the_share_of_disturbed_calls() -> None:
    timing = timing_by_round(Samples([[1.0] * 6, []], [[9.0], [9.0]]), 0.0, 0.0)
    assert (timing.dropped, timing.disturbed) == (2, 0)
    assert Measured({"edgeconv": timing}, {}, [], []).disturbed == 0.25
    few = timing_by_round(Samples([[1.0], []], [[9.0], [9.0]]), 0.0, 0.0)
    assert few.samples_ms == (1.0, 9.0, 9.0)
    assert Measured({"edgeconv": few}, {}, [], []).disturbed == pytest.approx(2 / 3)


def test_ratios_in_results() -> None:
    found = measured({"edgeconv": 2.0, "mnn": 3.0, "ncnn": 1.0}, {"tvm": "no"})["engines"]
    assert found["mnn"]["ratio"][0] == 1.5
    assert found["mnn"]["ratio_fastest"][0] == 3.0
    assert found["edgeconv"]["ratio_fastest"][0] == 2.0
    assert found["tvm"] == {"failed": "no"}
    assert statistics.samples_from_text(found["ncnn"]["samples_ms"])[0][0] == [0.98, 1.0, 1.02]


def test_rounds_go_in_turns_and_warm_up() -> None:
    ran: list[str] = []
    between: list[int] = []
    samples = interleave(
        {name: (lambda name=name: ran.append(name)) for name in "abc"},
        Pace(rounds=6, block_calls=2),
        between=lambda: between.append(len(ran)),
    )
    assert len(between) == 6
    order = ran[between[0] :]
    blocks = [order[i] for i in range(0, len(order), WARM_UP + 2)]
    assert "".join(blocks) == "abc" + "bca" + "cab" + "abc" + "bca" + "cab"
    for s in samples.values():
        assert [len(g) + len(b) for g, b in zip(s.undisturbed, s.disturbed, strict=True)] == [2] * 6


def test_how_much_is_measured() -> None:
    plan = Pace(rounds=50).plan({"fast": 1e-5, "slow": 0.1, "slowest": 2.0})
    assert plan.rounds == 50
    assert plan.counts == {"fast": 10, "slow": 1, "slowest": 1}
    assert plan.every == {"fast": 1, "slow": 1, "slowest": 10}  # in five rounds, evenly
    timed = Pace(rounds=50, seconds=1.0).plan({"a": 1e-3, "b": 0.01})
    assert timed.rounds == 30
    assert timed.counts["a"] > timed.counts["b"] == 1
    assert Pace(rounds=50, seconds=0.1).plan({"a": 1.0}).rounds == 5
