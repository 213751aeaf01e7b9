"""The tuner: what it measures, keeps, and how it goes on after it was stopped anywhere."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from edgeconv.errors import EdgeconvError
from edgeconv.tuning import plan, records, summary
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.page import page
from edgeconv.tuning.plan import Item, Options
from edgeconv.tuning.runner import DeviceLost
from edgeconv.tuning.tuner import Tuner, TuningFailed, default
from tests.tuning.making import device, task
from tests.tuning.pretend import Killed, Pretend, best_of, microseconds

TASKS = [task(), task(groups=4), task(kernel_size=(1, 1), padding=(0, 0, 0, 0))]
ITEMS = [Item(n, t, tuple(f"layer{n}{i}" for i in range(n))) for n, t in enumerate(TASKS, 1)]


def tuner(folder: Path, runner: Pretend, items: list[Item] | None = None, **options: Any) -> Tuner:
    return Tuner(items or ITEMS, device(), Options(**options), runner, folder)


def run(folder: Path, runner: Pretend, items: list[Item] | None = None, **options: Any) -> Tuner:
    """A whole run."""
    made = tuner(folder, runner, items, **options)
    try:
        made.run()
    finally:
        made.close()
    return made


def test_everything_tried_finds_the_best(tmp_path: Path) -> None:
    runner = Pretend()
    made = run(tmp_path, runner, trials=10_000, early_stop=10_000)
    for state in made.states:
        record, search = state.record, state.search
        assert record is not None
        assert search.is_complete
        assert record.median_us == pytest.approx(best_of(search.task, search.space), abs=1e-3)
        assert record.default_us == pytest.approx(
            microseconds(search.task, search.default), abs=1e-3
        )
        found = records.load(device(), [tmp_path]).find(search.task, device(), exact=False)
        assert found is not None
        assert (found.family.name, found.knobs) == (record.family, record.knobs)
    assert set(runner.measured.values()) == {1}


def test_trials_and_patience(tmp_path: Path) -> None:
    made = run(tmp_path / "a", Pretend(), trials=40)
    assert all(s.search.tried == 40 or s.search.is_complete for s in made.states)
    assert sum(s.search.is_complete for s in made.states) <= 1  # of three
    made = run(tmp_path / "b", Pretend(), early_stop=32)
    for state in made.states:
        tried, gained = state.search.tried, max(1, state.search.last_gain)
        assert state.search.is_complete or 32 <= tried - gained < 32 + plan.BATCH


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [((), [1, 2, 3]), (("2",), [2]), (("2-3",), [2, 3]), (("layer3*", "1"), [1, 3])],
)
def test_chosen_tasks(tmp_path: Path, wanted: tuple[str, ...], numbers: list[int]) -> None:
    made = tuner(tmp_path, Pretend(), tasks=wanted)
    assert [s.item.number for s in made.states] == numbers
    made.close()


def test_damaged_records_are_said(tmp_path: Path) -> None:
    path = tmp_path / "raspberry-pi-4" / "winograd.jsonl"
    path.parent.mkdir()
    path.write_text("garbage\n")
    made = tuner(tmp_path, Pretend())
    assert [fault.startswith(f"{path}:1: record skipped: not JSON") for fault in made.faults] == [
        True
    ]
    made.close()


def test_a_task_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeconvError, match="no task is called 'conv9'; the tasks are 1: layer10"):
        tuner(tmp_path, Pretend(), tasks=("conv9",))


OPTIONS: dict[str, Any] = dict(trials=48, early_stop=48, seed=7)


def undisturbed(folder: Path) -> tuple[Tuner, Pretend]:
    runner = Pretend()
    return run(folder, runner, **OPTIONS), runner


def test_killed_anywhere_it_goes_on(tmp_path: Path) -> None:
    """At every call of the runner: the same records, nothing measured twice."""
    wanted, whole = undisturbed(tmp_path / "whole")
    assert whole.calls == 12
    for number in range(1, whole.calls + 1):
        folder = tmp_path / str(number)
        first, second = Pretend(kill_at=number), Pretend()
        with pytest.raises(Killed):
            run(folder, first, **OPTIONS)
        before = all_records(folder)
        made = run(folder, second, **OPTIONS)
        again = first.measured + second.measured
        assert set(again.values()) == {1}
        assert again == whole.measured
        assert before <= all_records(folder)
        for one, other in zip(made.states, wanted.states, strict=True):
            assert one.record is not None
            assert other.record is not None
            assert one.record.knobs == other.record.knobs
            assert one.search.trials == other.search.trials
        assert first.finals + second.finals == whole.finals


def all_records(folder: Path) -> set[str]:
    """Checksums of all records in a folder."""
    found = [records.read_file(path) for path in records.files_in(folder)]
    assert not [fault for _, faults in found for fault in faults]
    return {s.record.checksum for stored, _ in found for s in stored}


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run(tmp_path, Pretend(), **OPTIONS)
    runner = Pretend()
    made = run(tmp_path, runner, **OPTIONS)
    assert runner.calls == 0
    assert all(s.record is not None for s in made.states)


def test_more_trials_go_on_with_what_is_there(tmp_path: Path) -> None:
    one, two = Pretend(), Pretend()
    run(tmp_path, one, **OPTIONS)
    made = run(tmp_path, two, **{**OPTIONS, "trials": 64, "early_stop": 64})
    assert set((one.measured + two.measured).values()) == {1}
    assert all(s.search.tried == 64 or s.search.is_complete for s in made.states)
    assert sum(s.search.is_complete for s in made.states) <= 1  # of three
    assert two.finals == sum(not s.search.is_complete for s in made.states)


@pytest.mark.parametrize("damage", ["torn", "garbage", "empty"])
def test_a_damaged_journal_loses_only_what_is_damaged(tmp_path: Path, damage: str) -> None:
    runner = Pretend(kill_at=5)
    with pytest.raises(Killed):
        run(tmp_path, runner, **OPTIONS)
    (path,) = tmp_path.glob(".journal/*/*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {"torn": lines[-1][:50], "garbage": b"\xff\0\n", "empty": b"\n"}[damage]
    path.write_bytes(b"".join([*lines[:-1], changed]))
    made = run(tmp_path, Pretend(), **OPTIONS)
    assert made.journal.damaged == 1
    assert made.faults == [f"{made.journal.path}: damaged lines skipped: 1"]
    assert all(s.record is not None for s in made.states)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    one = tuner(tmp_path, Pretend())
    with pytest.raises(EdgeconvError, match=r"being tuned already, by process \d+"):
        tuner(tmp_path, Pretend())
    one.close()
    tuner(tmp_path, Pretend()).close()


def test_the_budget_counts_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes half a second; the budget ends both runs together."""
    clock = itertools.count(step=0.5)
    monkeypatch.setattr("edgeconv.tuning.tuner.time.monotonic", lambda: next(clock))
    with pytest.raises(Killed):
        run(tmp_path, Pretend(kill_at=6), budget_s=60, trials=10_000, early_stop=10_000)
    made = run(tmp_path, Pretend(), budget_s=60, trials=10_000, early_stop=10_000)
    assert 30 < made.spent < 75
    assert not all(s.search.is_complete for s in made.states)
    assert all(s.record is not None for s in made.states)
    for _ in range(5):  # what was kept for the whole network's comparison may still be used
        rest = Pretend()
        made = run(tmp_path, rest, budget_s=60, trials=10_000, early_stop=10_000)
        assert made.spent < 75
    assert rest.calls == 0


def test_wrong_candidates_never_win_and_are_reported(tmp_path: Path) -> None:
    best = min(tuner_space(tmp_path), key=lambda c: microseconds(TASKS[0], c))
    runner = Pretend(fault=lambda c: "wrong result" if c == best else "")
    made = run(tmp_path, runner, ITEMS[:1], trials=10_000, early_stop=10_000)
    (state,) = made.states
    assert state.record is not None
    assert state.record.knobs != best.knobs
    assert [t.candidate for t in state.failures] == [best]
    found = summary.summary(made, "net.onnx", None)
    assert found["failures"] == 1
    assert found["tasks"][0]["failures"] == [{"candidate": str(best), "why": "wrong result"}]
    assert "wrong result" in page(found)


def tuner_space(folder: Path) -> list[Any]:
    made = tuner(folder / "scratch", Pretend(), ITEMS[:1])
    made.close()
    return made.states[0].search.space


def test_a_default_that_fails_fails_its_task_only(tmp_path: Path) -> None:
    bad = tuner_space(tmp_path)[0]
    runner = Pretend(fault=lambda c: "crashed" if c == bad else "")
    made = run(tmp_path, runner, ITEMS, trials=32)
    assert made.states[0].fault == "the default knobs failed: crashed"
    assert made.states[0].record is None
    assert made.states[1].record is not None
    assert summary.summary(made, "net.onnx", None)["tasks"][0]["state"] == "failed"


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TuningFailed, match="nothing could be measured") as caught:
        run(tmp_path, Pretend(fault=lambda c: "SIGILL"))
    assert "layer10: the default knobs failed: SIGILL" in str(caught.value)


def test_a_lost_device_loses_nothing(tmp_path: Path) -> None:
    first, second = Pretend(lose_at=4), Pretend()
    with pytest.raises(DeviceLost):
        run(tmp_path, first, **OPTIONS)
    run(tmp_path, second, **OPTIONS)
    assert set((first.measured + second.measured).values()) == {1}
    assert first.calls + second.calls == 13  # twelve, and the one that was lost


def test_what_is_tuned_already_is_left_alone(tmp_path: Path) -> None:
    """Another network with the same layer."""
    run(tmp_path, Pretend(), ITEMS[:1], trials=64, early_stop=64)
    runner = Pretend()
    made = run(tmp_path, runner, ITEMS[:2], trials=64, early_stop=64)
    assert made.states[0].skipped
    assert {t for t, _ in runner.measured} == {TASKS[1]}
    again = Pretend()
    run(tmp_path, again, ITEMS[:2], trials=64, early_stop=64, again=True)
    assert {t for t, _ in again.measured} == {TASKS[0], TASKS[1]}


def test_exact_numerics_leave_winograd_out(tmp_path: Path) -> None:
    made = run(tmp_path, Pretend(), ITEMS[:1], exact=True, trials=64)
    (state,) = made.states
    assert state.record is not None
    assert state.record.numerics == "exact"
    assert "winograd" not in {c.family for c in state.search.space}
    assert "winograd" in {c.family for c in tuner_space(tmp_path)}


def test_where_winograd_wins_there_is_a_record_for_exact_numerics_too(tmp_path: Path) -> None:
    """Winograd is fastest, the exact default slowest: the best of the exact has a record, too."""
    exact_default = default(TASKS[0], device(), exact=True)

    def factor(candidate: Candidate) -> float:
        return 4.0 if candidate == exact_default else 2.0 if candidate.of.exact else 0.5

    made = run(tmp_path, Pretend(factor=factor), ITEMS[:1], trials=10_000, early_stop=10_000)
    (state,) = made.states
    found = records.load(device(), [tmp_path])
    fast = found.find(TASKS[0], device(), exact=False)
    exact = found.find(TASKS[0], device(), exact=True)
    assert fast is not None
    assert state.record is not None
    assert fast.family.name == state.record.family == "winograd"
    assert exact is not None
    assert exact.family.exact
    best = best_of(TASKS[0], [c for c in state.search.space if c.of.exact and c != exact_default])
    wanted = Candidate(exact.family.name, exact.knobs)
    assert microseconds(TASKS[0], wanted) == best


def test_where_the_exact_default_is_best_it_needs_no_record(tmp_path: Path) -> None:
    exact_default = default(TASKS[0], device(), exact=True)

    def factor(candidate: Candidate) -> float:
        return 1.0 if candidate == exact_default else 4.0 if candidate.of.exact else 0.2

    run(tmp_path, Pretend(factor=factor), ITEMS[:1], trials=10_000, early_stop=10_000)
    found = records.load(device(), [tmp_path])
    fast = found.find(TASKS[0], device(), exact=False)
    assert fast is not None
    assert not fast.family.exact
    assert found.find(TASKS[0], device(), exact=True) is None


def test_the_most_time_first(tmp_path: Path) -> None:
    """Of tasks alike, the one that occurs most often; then where the last batches brought most."""
    order = []

    @dataclasses.dataclass
    class Noting(Pretend):
        def run(self, task_: Any, *rest: Any) -> Any:
            order.append(task_)
            return super().run(task_, *rest)

    alike = [task(groups=4), task(groups=4, dilation=(1, 2), padding=(1, 2, 1, 2))]
    items = [Item(1, alike[0], ("a",)), Item(2, alike[1], ("b", "c", "d", "e"))]
    run(tmp_path, Noting(), items, trials=32)
    assert order[0] == alike[1]


def test_the_page_holds_no_foreign_markup(tmp_path: Path) -> None:
    item = dataclasses.replace(ITEMS[0], layers=("<script>alert(1)</script>",))
    made = run(tmp_path, Pretend(), [item], trials=32)
    text = page(summary.summary(made, "<b>net</b>", None))
    assert "<script>" not in text
    assert "<b>net" not in text
    assert "<svg" in text
    assert "http" not in text


def test_history_grows(tmp_path: Path) -> None:
    made = run(tmp_path, Pretend(), **OPTIONS)
    points = summary.history(made)
    trials = [p["trials"] for p in points]
    steps = [b - a for a, b in itertools.pairwise([0, *trials])]
    assert max(steps) == plan.BATCH
    assert min(steps) > 0  # a space that ends has a smaller batch
    assert trials[-1] == sum(s.search.tried for s in made.states)
    speeds = [p["speedup"] for p in points]
    assert speeds == sorted(speeds)


def test_a_journal_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / ".journal").touch()
    with pytest.raises(EdgeconvError, match="can't write"):
        tuner(tmp_path, Pretend())
