"""What the search proposes, what the cost model learns, and who wins a final."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.tuning.bench import Outcome
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.cost_model import CostModel
from edgeconv.tuning.features import COLUMNS, features
from edgeconv.tuning.search import Search, Trial
from edgeconv.tuning.verdict import decide
from tests.tuning.making import device, task


def made(seed: int = 0) -> Search:
    return Search(task(), device(), exact=False, seed=seed)


def time_of(search: Search, candidate: Candidate) -> float:
    """A made-up device, on which small tiles are fast: not what the estimate says."""
    v = candidate.values
    return (
        0.5 + 0.02 * v.get("rows", 1) * v.get("vectors", 1) + 0.1 * (v.get("columns", 1) - 2) ** 2
    )


def run(search: Search, model: CostModel, batches: int, count: int = 16) -> None:
    for _ in range(batches):
        chosen = search.propose(model, count)
        own = time_of(search, search.default)
        search.add([Trial(c, time_of(search, c) / own) for c in chosen], model)


def test_the_default_is_first_and_every_family_takes_part() -> None:
    search = made()
    first = search.propose(CostModel(), 16)
    assert first[0] == search.default == search.space[0]
    assert len(first) == len(set(first)) == 16
    assert {c.family for c in search.space} == {c.family for c in first}


def test_every_candidate_once_until_none_is_left() -> None:
    search, model = made(), CostModel()
    seen: list[Candidate] = []
    while not search.is_complete:
        chosen = search.propose(model, 50)
        seen += chosen
        search.add([Trial(c, 1.0) for c in chosen], model)
    assert len(seen) == len(set(seen)) == len(search.space)
    assert search.propose(model, 50) == []


def test_the_seed_decides() -> None:
    same = [made(seed).propose(CostModel(), 16) for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_a_search_that_is_taken_up_proposes_the_same() -> None:
    one, model = made(), CostModel()
    run(one, model, 3)
    other, again = made(), CostModel()
    for start in range(0, one.tried, 16):
        other.add(one.trials[start : start + 16], again)
    assert other.propose(again, 16) == one.propose(model, 16)
    assert other.last_gain == one.last_gain


def test_a_restricted_search_proposes_nothing_else() -> None:
    search = made()
    some = search.space[:1] + search.space[5:60:3]
    search.restrict(some)
    assert set(search.propose(CostModel(), 16)) <= set(some)
    assert len(search.propose(CostModel(), 100)) == len(some)


def test_failures_do_not_count() -> None:
    search, model = made(), CostModel()
    chosen = search.propose(model, 3)
    search.add([Trial(chosen[0], None, None, "crashed"), Trial(chosen[1], 0.9)], model)
    assert search.best_ratio == 0.9
    assert model.measurements == 1
    assert chosen[0] not in search.propose(model, 500)
    assert [t.candidate for t in search.leaders(5)] == [chosen[1]]


def test_the_cost_model_finds_good_candidates_sooner_than_chance() -> None:
    """On the made-up device, over several seeds: trials until within 2 % of the best."""
    guided, random = [], []
    for seed in range(5):
        search, model = made(seed), CostModel(seed)
        all_times = np.array([time_of(search, c) for c in search.space])
        good = 1.02 * all_times.min()
        run(search, model, 12, 8)
        found = [time_of(search, t.candidate) <= good for t in search.trials]
        guided.append(found.index(True) if True in found else len(found))
        order = np.random.default_rng(seed).permutation(len(all_times))
        random.append(int(np.argmax(all_times[order] <= good)))
    assert np.mean(guided) < 0.5 * np.mean(random)


def test_features_have_one_row_each() -> None:
    search = made()
    rows = features(search.task, search.device, search.space)
    assert rows.shape == (len(search.space), COLUMNS)
    assert rows[0, 0] == 0
    assert len(np.unique(rows, axis=0)) == len(search.space)


def outcome(rng: np.random.Generator, mean: float, spread: float, own: np.ndarray) -> Outcome:
    samples = mean * (1 + spread * rng.standard_normal(len(own)))
    return Outcome("", tuple(samples), tuple(own))


def test_a_lucky_candidate_wins_seldom() -> None:
    wins = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        own = 10 * (1 + 0.03 * rng.standard_normal(24))
        outcomes = [Outcome("", tuple(own), tuple(own))]
        outcomes += [outcome(rng, 10, 0.03, own) for _ in range(4)]
        wins += decide(outcomes, range(5), 0).winner != 0
    assert wins <= 20


def test_a_real_gain_wins() -> None:
    rng = np.random.default_rng(0)
    own = 10 * (1 + 0.02 * rng.standard_normal(24))
    outcomes = [
        Outcome("", tuple(own), tuple(own)),
        outcome(rng, 9.0, 0.02, own),
        outcome(rng, 9.5, 0.02, own),
        Outcome("wrong result"),
    ]
    found = decide(outcomes, range(4), 0)
    assert found.winner == 1
    assert found.ratio == pytest.approx(0.9, abs=0.03)
    assert found.rounds == 12


def test_a_clock_that_drifts_cancels_out() -> None:
    """A device that gets slower and slower: the default in the same round does too."""
    drift = np.linspace(1, 2, 24)
    own = 10 * drift
    outcomes = [Outcome("", tuple(own), tuple(own)), Outcome("", tuple(9.5 * drift), tuple(own))]
    assert decide(outcomes, range(2), 0).ratio == pytest.approx(0.95)
