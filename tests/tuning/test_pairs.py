"""Pairs of convolutions in one kernel are tuned too: their knobs, and whether they are one."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import edgeconv
from edgeconv import api, fusion
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.build import Layer, tunable_tasks
from edgeconv.schedules.pairs import PAIRS, pair_family
from edgeconv.targets import Device
from edgeconv.tuning import bench, candidates, kernels, plan, records, whole
from edgeconv.tuning.bench import Plan
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.families import TWO_KERNELS, NoKnobs
from edgeconv.tuning.network import Comparison, compare
from edgeconv.tuning.page import page
from edgeconv.tuning.plan import Options
from edgeconv.tuning.record import Record, from_line
from edgeconv.tuning.records import Records
from edgeconv.tuning.runner import ProcessRunner
from edgeconv.tuning.summary import summary
from edgeconv.tuning.tuner import TaskState, Tuner
from edgeconv.workload import ConvTask, PairTask
from tests.e2e.models import expected
from tests.schedules.pairs import cases
from tests.tuning.making import device, record_of
from tests.tuning.making import record as conv_record
from tests.tuning.pretend import Pretend

HOST = device("host")
APART = Candidate(TWO_KERNELS.name, NoKnobs())


@pytest.fixture
def fusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel call is estimated to take for ever: all pairs are fused that can be."""
    monkeypatch.setattr(fusion, "KERNEL_CYCLES", 1e12)
    monkeypatch.setattr(fusion, "CACHED", 1 << 40)
    monkeypatch.setattr(fusion, "STREAMED", 0)
    fusion.choose.cache_clear()
    yield
    fusion.choose.cache_clear()


def network(size: int = 14) -> onnx.ModelProto:
    """A pair in the middle: expansion and filter, between a dense and a strided convolution."""
    b = Builder("pair", (1, 16, size, size))
    x = b.conv_bn("input", 16, 16, 3, activation="relu6")
    y = b.conv_bn(x, 16, 40, 1, activation="relu6")
    y = b.conv_bn(y, 40, 40, 3, 1, 40, "relu")
    return b.model(b.conv_bn(y, 40, 24, 3, 2, activation=""))


def pair_in(proto: onnx.ModelProto, on: Device) -> PairTask:
    """The task of the only fused pair."""
    (found,) = (t for _, t in tasks(proto, on) if isinstance(t, PairTask))
    return found


def tasks(proto: onnx.ModelProto, on: Device) -> tuple[tuple[str, Any], ...]:
    return tunable_tasks(api.import_graph(proto), on, on.cores)


def record(task: PairTask, on: Device, candidate: Candidate, **changes: Any) -> Record:
    """A record that this version would use."""
    return record_of(task, on, candidate.of, candidate.knobs, **changes)


def other(task: PairTask, on: Device) -> Candidate:
    """One kernel with other knobs than the default."""
    return candidates.space(task, on, exact=False)[-1]


def test_the_default_is_first_and_two_kernels_take_part() -> None:
    for _, task, _ in cases(1, 8, HOST):
        space = candidates.space(task, HOST, exact=False)
        choice = fusion.choose(task, HOST)
        one = Candidate(choice.family.name, choice.knobs)
        assert space[0] == (one if fusion.fuses(task, HOST) else APART)
        assert one in space
        assert space.count(APART) == 1
        assert len(set(space)) == len(space)
        for candidate in random.Random(2).sample(space, min(5, len(space))):
            assert records.illegal(record(task, HOST, candidate), HOST) is None


def test_kernels_are_right_and_wrong_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel and two make the same of whole numbers, exactly; or, if one half's filters are
    others than they should be, not.
    """
    bench.open_session(None, 1.0)
    swish = ("silu", ())
    for number, (_, task, _) in enumerate(cases(7, 4, HOST)):
        if number % 2:
            task = dataclasses.replace(
                task, first=dataclasses.replace(task.first, activation=swish)
            )
        some = [*candidates.space(task, HOST, exact=False)[:2], other(task, HOST)]
        library = kernels.build_library(task, HOST, some), list(zip(some, range(3), strict=True))

        def outcomes(library: Any = library, task: PairTask = task) -> list[bench.Outcome]:
            return bench.measure(task, HOST, [library], Plan(1, 1e-5), lambda _: None)

        found = outcomes()
        assert [o.fault for o in found] == [""] * 3
        assert all(o.samples_us for o in found)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "packed", spoilt(kernels.packed))
            assert all(o.fault.startswith("wrong result") for o in outcomes())


def spoilt(packed: Any) -> Any:
    """`packed` with the last convolution's filters off by one."""

    def wrong(task: Any, on: Device, candidate: Candidate, weights: Any, biases: Any) -> Any:
        return packed(task, on, candidate, [*weights[:-1], weights[-1] + 1], biases)

    return wrong


@pytest.mark.usefixtures("fusing")
def test_lines_of_records() -> None:
    task = pair_in(network(), HOST)
    for candidate in (other(task, HOST), APART):
        made = record(task, HOST, candidate)
        assert from_line(made.to_line().encode()) == made
        assert " then " in json.loads(made.to_line())["workload"]


@pytest.mark.usefixtures("fusing")
def test_records_that_mix_one_convolution_and_two() -> None:
    task = pair_in(network(), HOST)
    for wrong, words in (
        (dataclasses.replace(conv_record(), task=task), "two convolutions, which grouped"),
        (
            dataclasses.replace(record(task, HOST, APART), task=conv_record().task),
            "one convolution, which two_kernels",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            from_line(wrong.to_line().encode())
    known = pair_family("pointwise_depthwise").default_knobs(task, HOST)
    bad = record(
        task, HOST, Candidate("pointwise_depthwise", dataclasses.replace(known, strip=999))
    )
    reason = records.illegal(bad, HOST)
    assert reason == "knobs that pointwise_depthwise does not have for the task"


@pytest.mark.usefixtures("fusing")
def test_compile_uses_the_knobs() -> None:
    proto = network()
    task = pair_in(proto, HOST)
    best = other(task, HOST)
    found = Records([])
    found.add(record(task, HOST, best))
    (layer,) = fused(edgeconv.explain(proto, threads=1, records=found))
    assert f"{layer.schedule} {layer.knobs}" == str(best)
    assert layer.reason.startswith("tuned: 1.20 times the default's speed; 117 trials")
    exact = edgeconv.explain(proto, threads=1, records=found, numerics="exact")
    assert fused(exact)[0].knobs == layer.knobs


@pytest.mark.usefixtures("fusing")
def test_compile_leaves_apart_what_is_faster_apart() -> None:
    """And the two kernels are those that were measured."""
    proto = network()
    task = pair_in(proto, HOST)
    found = Records([])
    found.add(record(task, HOST, APART))
    assert fused(edgeconv.explain(proto, threads=1)) != []
    layers = edgeconv.explain(proto, threads=1, records=found)
    assert fused(layers) == []
    kinds = {layer.op: layer for layer in layers}
    for choice, kind in zip(
        fusion.choose_apart(task, HOST), ("pointwise", "depthwise"), strict=True
    ):
        assert (kinds[kind].schedule, kinds[kind].knobs) == (choice.family.name, choice.knobs_text)
    why = dict(kinds["pointwise"].refused)["pointwise_depthwise"]
    assert why.startswith("fusing with the next layer: measured: two kernels have 1.20 times")


@pytest.mark.usefixtures("fusing")
def test_records_for_other_layouts_and_devices() -> None:
    """The graph is fused before layouts are chosen: one record for "fused" outweighs others."""
    task = pair_in(network(), HOST)
    wide = dataclasses.replace(task.first.data, halo=(2, 2, 2, 2))
    moved = dataclasses.replace(task, first=dataclasses.replace(task.first, data=wide))
    found = Records([])
    found.add(record(task, HOST, APART))
    assert found.apart(moved, HOST, exact=False)
    assert found.apart(moved, dataclasses.replace(HOST, cores=2), exact=False) is None
    assert found.apart(moved, device(), exact=False) is None
    found.add(record(moved, HOST, other(task, HOST)))
    assert found.apart(task, HOST, exact=False) is None
    assert found.find_pair(task, HOST, exact=False) is None
    later = dict(date="2026-11-22T10:00:00+00:00")
    found.add(record(moved, HOST, APART, **later))
    assert found.apart(task, HOST, exact=False)
    found.add(record(task, HOST, APART, source="0" * 16, **later))
    assert found.apart(task, HOST, exact=False)
    assert len(found.outdated) == 1


@pytest.mark.usefixtures("fusing")
def test_a_record_takes_apart_what_reads_the_input() -> None:
    """Also where fusing costs a copy of the network's input, which the estimate knows."""
    b = Builder("pair", (1, 40, 14, 14))
    x = b.conv_bn("input", 40, 40, 3, 1, 40, "relu")
    proto = b.model(b.conv_bn(b.conv_bn(x, 40, 24, 1), 24, 24, 3, 2, activation=""))
    task = pair_in(proto, HOST)
    assert task.first.conv.is_depthwise
    found = Records([])
    found.add(record(task, HOST, APART))
    assert len(fused(edgeconv.explain(proto, threads=1, records=False))) == 1
    assert fused(edgeconv.explain(proto, threads=1, records=found)) == []


@pytest.mark.usefixtures("fusing")
def test_results_agree_with_onnx_runtime() -> None:
    proto = network()
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 16, 14, 14), np.float32)}
    (wanted,) = expected(proto, feeds).values()
    task = pair_in(proto, HOST)
    for candidate in (other(task, HOST), APART):
        found = Records([])
        found.add(record(task, HOST, candidate))
        (got,) = edgeconv.compile(proto, threads=1, records=found).run(feeds).values()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def fused(layers: tuple[Layer, ...]) -> list[Layer]:
    return [layer for layer in layers if " + " in layer.op]


@pytest.mark.usefixtures("fusing")
def test_a_search_ends_with_a_record(tmp_path: Path) -> None:
    """Of the fastest, as `compile` finds it; a second run has nothing to do."""
    proto, on = network(), device()
    items = plan.items(api.import_graph(proto), on, 1)
    (item,) = (i for i in items if isinstance(i.task, PairTask))
    assert item.workload.count(" +") == 2
    runner = Pretend(fault=lambda c: "left out" if other_one_kernel(c) else "")
    tuner = Tuner(items, on, Options(trials=16), runner, tmp_path)
    tuner.run()
    tuner.close()
    (state,) = (s for s in tuner.states if s.item is item)
    assert state.record is not None
    assert {t.candidate for t in state.failures} == {
        t.candidate for t in state.search.trials if other_one_kernel(t.candidate)
    }
    default_us, apart_us = (t.us for t in state.search.trials if t.us is not None)
    assert default_us is not None
    assert apart_us is not None
    won = apart_us < default_us
    assert (state.record.family == TWO_KERNELS.name) == won
    layers = edgeconv.explain(proto, on, threads=1, records=tmp_path)
    assert (fused(layers) == []) == won
    runner = Pretend()
    again = Tuner(items, on, Options(trials=16), runner, tmp_path)
    again.run()
    again.close()
    assert runner.calls == 0


def other_one_kernel(candidate: Candidate) -> bool:
    """Any but the default of the pair of `network`, and two kernels."""
    if candidate.family != "pointwise_depthwise":
        return False
    task = pair_in(network(), device())
    return candidate != candidates.default(task, device(), exact=False)


@pytest.mark.slow
@pytest.mark.usefixtures("fusing")
def test_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four trials in processes of their own: the default, two kernels and two others."""
    monkeypatch.setattr("edgeconv.tuning.runner.COOL_DOWN_S", ())  # the tests' machine is busy
    proto, runner = network(), ProcessRunner(1)
    items = plan.items(api.import_graph(proto), HOST, 1)
    wanted = next(str(i.number) for i in items if isinstance(i.task, PairTask))
    tuner = Tuner(items, HOST, Options(trials=4, tasks=(wanted,)), runner, tmp_path)
    try:
        tuner.run()
    finally:
        runner.close()
        tuner.close()
    (state,) = tuner.states
    assert state.failures == []
    assert APART in {t.candidate for t in state.search.trials}
    assert state.record is not None
    layers = edgeconv.explain(proto, HOST, threads=1, records=tmp_path)
    if state.record.family == TWO_KERNELS.name:
        assert fused(layers) == []
    else:
        assert "; 4 trials" in fused(layers)[0].reason


class TwoAreFaster(Pretend):
    """Made-up times, of which those of two kernels are the shortest; the network runs for real."""

    def run(self, task: Any, device: Any, candidates: Any, plan: Plan) -> list[bench.Outcome]:
        """As `Runner.run`."""
        times = [5.0 if c == APART else 10.0 for c in candidates]
        return [bench.Outcome("", (t,) * plan.rounds, (10.0,) * plan.rounds) for t in times]

    def compare(self, before: Path, after: Path) -> Comparison:
        """As `Runner.compare`, in this process."""
        bench.open_session(None, 1.0)
        found = compare(str(before), str(after), lambda _: None)
        return dataclasses.replace(
            found, after_ms=found.before_ms, after_steps_us=self.steps(found)
        )

    def steps(self, found: Comparison) -> tuple[float, ...]:
        """Of the longer network, none slower than before."""
        assert len(found.after_steps_us) == len(found.before_steps_us) + 1
        return (0.0,) * len(found.after_steps_us)


class TwoAreSlowerThere(TwoAreFaster):
    """In the network they are not."""

    def steps(self, found: Comparison) -> tuple[float, ...]:
        """Each slower than the whole network before."""
        return (10 * sum(found.before_steps_us),) * len(super().steps(found))


@pytest.mark.usefixtures("fusing")
@pytest.mark.parametrize("runner", [TwoAreFaster(), TwoAreSlowerThere()], ids=["kept", "not"])
def test_the_network_has_the_last_word(
    runner: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs of both forms agree, and a pair that is faster fused after all stays fused."""
    monkeypatch.setattr("edgeconv.tuning.network.BLOCK_S", 1e-4)
    proto = network()
    items = plan.items(api.import_graph(proto), HOST, 1)
    tuner = Tuner(items, HOST, Options(trials=4), runner, tmp_path)
    tuner.run()

    def compile_(source: Any) -> Any:
        return api.compile_artifact(proto, HOST, threads=1, records=source or False)

    found = whole.check_network(tuner, compile_)
    told = summary(tuner, "net", whole.to_json(found))
    tuner.close()
    (told_of_pair,) = (t for t in told["tasks"] if " then " in t["workload"])
    layers = edgeconv.explain(proto, HOST, threads=1, records=tmp_path)
    assert "two_kernels" in page(told) or found is None
    if isinstance(runner, TwoAreSlowerThere):
        assert found is None
        assert (told_of_pair["state"], len(fused(layers))) == ("default kept", 1)
    else:
        assert found is not None
        assert found.error <= 1e-5
        assert (told_of_pair["schedule"], told_of_pair["knobs"]) == ("two_kernels", {})
        assert (told_of_pair["state"], told_of_pair["speedup"]) == ("tuned", 2.0)
        assert fused(layers) == []


@pytest.fixture
def offering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pairs are estimated to be faster in one kernel, but the cache is said to hold any map."""
    monkeypatch.setattr(fusion, "KERNEL_CYCLES", 1e6)
    monkeypatch.setattr(fusion, "CACHED", 0)
    fusion.choose.cache_clear()
    yield
    fusion.choose.cache_clear()


@pytest.mark.usefixtures("offering")
def test_a_pair_that_is_not_fused_is_offered() -> None:
    """As a task of its own, behind those of its halves; the default is what it is now."""
    proto = network()
    items = plan.items(api.import_graph(proto), HOST, 1)
    *own, pair = items
    assert [i.task for i in own] == [task for _, task in tasks(proto, HOST)]
    assert not any(i.offered or isinstance(i.task, PairTask) for i in own)
    assert pair.offered
    assert isinstance(pair.task, PairTask)
    assert candidates.default(pair.task, HOST, exact=False) == APART
    assert fused(edgeconv.explain(proto, threads=1, records=False)) == []


@pytest.mark.usefixtures("offering")
def test_a_record_fuses_what_the_cost_model_leaves_apart() -> None:
    proto = network()
    (task,) = (i.task for i in plan.items(api.import_graph(proto), HOST, 1) if i.offered)
    assert isinstance(task, PairTask)
    one = other(task, HOST)
    assert one != APART
    for candidate, count in ((APART, 0), (one, 1)):
        found = Records([])
        found.add(record(task, HOST, candidate))
        layers = fused(edgeconv.explain(proto, threads=1, records=found))
        assert len(layers) == count
        for layer in layers:
            assert layer.schedule == one.family
            assert layer.reason.startswith("tuned: ")
    assert found.fused(task, HOST, exact=False) == pytest.approx(record(task, HOST, one).speedup)
    found.add(record(task, HOST, APART, date="2026-11-22T10:00:00+00:00"))
    assert found.fused(task, HOST, exact=False) is None
    assert fused(edgeconv.explain(proto, threads=1, records=found)) == []


class OneIsFaster(Pretend):
    """Made-up times, of which those of one kernel are the shortest."""

    def run(self, task: Any, device: Any, candidates: Any, plan: Plan) -> list[bench.Outcome]:
        """As `Runner.run`."""
        pairs = {f.name for f in PAIRS}
        times = [5.0 if c.family in pairs else 10.0 for c in candidates]
        return [bench.Outcome("", (t,) * plan.rounds, (10.0,) * plan.rounds) for t in times]


@pytest.mark.usefixtures("offering")
def test_tuning_fuses_what_is_faster_in_one_kernel(tmp_path: Path) -> None:
    """What is offered counts twice in no sum: its layers have tasks of their own."""
    proto = network()
    items = plan.items(api.import_graph(proto), HOST, 1)
    tuner = Tuner(items, HOST, Options(trials=4), OneIsFaster(), tmp_path)
    tuner.run()
    tuner.close()
    assert sum(tuner.share(s) for s in tuner.states if not s.item.offered) == pytest.approx(1)
    assert tuner.speedup == 1.0
    (state,) = (s for s in tuner.states if s.item.offered)
    assert state.record is not None
    assert state.record.speedup == 2.0
    (layer,) = fused(edgeconv.explain(proto, HOST, threads=1, records=tmp_path))
    assert "2.00 times the default's speed" in layer.reason
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 16, 14, 14), np.float32)}
    (wanted,) = expected(proto, feeds).values()
    (got,) = edgeconv.compile(proto, threads=1, records=tmp_path).run(feeds).values()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def row(name: str, *source: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, source=source or (name,))


def forms(before: list[SimpleNamespace], after: list[SimpleNamespace]) -> Any:
    return tuple(SimpleNamespace(manifest=SimpleNamespace(layers=x)) for x in (before, after))


def test_layers_that_are_two_after_tuning_are_compared_together() -> None:
    """A pair taken apart, whose second half is fused with the layer behind instead."""
    before = [row("a"), row("b", "b", "c"), row("d"), row("e")]
    after = [row("a"), row("b"), row("c", "c", "d"), row("e")]

    def losers(*after_us: float) -> bool:
        found = Comparison(0.0, (1.0,) * 9, (1.0,) * 9, (50.0, 30.0, 30.0, 50.0), after_us)
        return whole._losers([state], forms(before, after), found) == [state]

    state: TaskState = SimpleNamespace(item=SimpleNamespace(layers=("b",)))  # type: ignore[assignment]
    assert not losers(99.0, 10.0, 49.0, 99.0)
    assert losers(50.0, 20.0, 49.0, 20.0)


def test_old_commands_begin_anew() -> None:
    """The key of a network without pairs is what it was; with them, pairs are in it."""
    on = device()
    conv: ConvTask = conv_record().task  # type: ignore[assignment]
    single = plan.Item(1, conv, ("a",))
    task = next(t for _, t, _ in cases(1, 1, on))
    both = [single, plan.Item(2, task, ("b",))]
    assert plan.run_key([single], on, Options()) != plan.run_key(both, on, Options())
