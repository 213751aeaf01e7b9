"""Pools are tuned too: how many columns their tiles have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeconv
from edgeconv import api
from edgeconv.build import Layer, tunable_tasks
from edgeconv.layout import Layout
from edgeconv.schedules import pooling
from edgeconv.targets import Device
from edgeconv.tuning import bench, candidates, kernels, keys, numbers, plan, records, whole
from edgeconv.tuning.bench import Plan
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.families import POOLING
from edgeconv.tuning.network import Comparison, compare
from edgeconv.tuning.plan import Item, Options
from edgeconv.tuning.record import Record, from_line
from edgeconv.tuning.records import Records
from edgeconv.tuning.summary import summary
from edgeconv.tuning.tuner import Tuner
from edgeconv.workload import Conv2d, PoolTask
from tests.e2e.models import ModelMaker, expected
from tests.e2e.test_channel_blocks import between_convolutions
from tests.tuning.making import device, record_of
from tests.tuning.making import record as conv_record
from tests.tuning.pretend import Killed, Pretend

HOST = device("host")
STRIDED = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1])


def network() -> onnx.ModelProto:
    """A pool between two convolutions."""
    return between_convolutions("MaxPool", (11, 14), **STRIDED)


def pool_in(proto: onnx.ModelProto, on: Device = HOST) -> PoolTask:
    """The task of the only pool."""
    tasks = tunable_tasks(api.import_graph(proto), on, on.cores)
    (found,) = (t for _, t in tasks if isinstance(t, PoolTask))
    return found


def pool_item(items: Sequence[Item]) -> Item:
    return next(i for i in items if isinstance(i.task, PoolTask))


def pool_layer(layers: Sequence[Layer]) -> Layer:
    (found,) = (layer for layer in layers if layer.schedule == "pooling")
    return found


def other(task: PoolTask, on: Device = HOST) -> Candidate:
    """Knobs that are not the default."""
    return candidates.space(task, on, exact=False)[-1]


def record(task: PoolTask, on: Device = HOST, **changes: Any) -> Record:
    """A record that this version would use, with knobs that are not the default."""
    return record_of(task, on, POOLING, other(task, on).knobs, **changes)


def tasks() -> list[PoolTask]:
    """Odd channels, paddings on one side only, dilations, halos, windows within the padding."""
    lanes = HOST.lanes
    odd = Conv2d(2, 20, 7, 9, 20, (3, 2), (1, 2), (2, 0, 0, 1), (2, 1), 20)
    square = Conv2d(1, 16, 8, 11, 16, (3, 3), (1, 1), (1, 1, 1, 1), groups=16)
    outside = Conv2d(1, 16, 5, 5, 16, (2, 2), (1, 1), (3, 0, 0, 2), groups=16)
    halo = Layout(lanes, (1, 0, 2, 1))
    return [
        PoolTask("max_pool2d", odd, halo, Layout(lanes)),
        PoolTask("max_pool2d", outside, Layout(16), Layout(16, (0, 1, 1, 0))),
        PoolTask("avg_pool2d", odd, Layout(lanes), halo),
        PoolTask("avg_pool2d", square, Layout(16), Layout(16), "valid"),
        PoolTask("avg_pool2d", outside, Layout(16), Layout(16), "valid", aligned=False),
    ]


def measured(task: PoolTask, some: Sequence[Candidate]) -> list[bench.Outcome]:
    """Outcomes of candidates in this process."""
    bench.open_session(None, 1.0)
    library = kernels.build_library(task, HOST, some), [(c, i) for i, c in enumerate(some)]
    return bench.measure(task, HOST, [library], Plan(2, 1e-5), lambda _: None)


@pytest.mark.parametrize("number", range(len(tasks())))
def test_kernels_are_right_and_wrong_ones_are_found(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks()[number]
    space = candidates.space(task, HOST, exact=False)
    assert space[0].knobs == pooling.default_knobs(task, HOST)
    assert len(set(space)) == len(space) > 1
    some = list(dict.fromkeys([space[0], space[1], space[-1]]))
    found = measured(task, some)
    assert [o.fault for o in found] == [""] * len(some)
    assert all(o.samples_us for o in found)

    def a_row_off(task: PoolTask, on: Device, knobs: Any) -> Any:
        top, left, bottom, right = task.window.padding
        window = dataclasses.replace(task.window, padding=(top - 1, left, bottom + 1, right))
        return build(dataclasses.replace(task, window=window), on, knobs)

    build = pooling.build
    monkeypatch.setattr(pooling, "build", a_row_off)
    assert all(o.fault.startswith("wrong result") for o in measured(task, some))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("included", [0, 1])
def test_the_reference(op: str, included: int) -> None:
    """Is ONNX Runtime's."""
    maker = ModelMaker()
    window = dict(kernel_shape=[3, 2], strides=[1, 2], pads=[2, 0, 1, 1])
    extra = dict(dilations=[2, 1]) if op == "MaxPool" else dict(count_include_pad=included)
    proto = maker.model(maker.node(op, maker.input("x", 2, 5, 7, 9), **window, **extra))
    x = np.random.default_rng(included).standard_normal((2, 5, 7, 9), np.float32)
    (wanted,) = expected(proto, {"x": x}).values()
    high = 2 if op == "MaxPool" else 1
    conv = Conv2d(2, 5, 7, 9, 5, (3, 2), (1, 2), (2, 0, 1, 1), (high, 1), 5)
    name = "max_pool2d" if op == "MaxPool" else "avg_pool2d"
    task = PoolTask(name, conv, Layout(4), Layout(4), ("valid", "full")[included])
    np.testing.assert_allclose(numbers.pooled(task, x), wanted, rtol=1e-5, atol=1e-6)


def test_lines_of_records() -> None:
    for task in tasks():
        made = record(task)
        assert from_line(made.to_line().encode()) == made
        assert json.loads(made.to_line())["workload"].startswith(task.op)
        assert records.illegal(made, HOST) is None


def test_records_of_something_else() -> None:
    task = tasks()[0]
    for wrong, words in (
        (dataclasses.replace(conv_record(), task=task), "a pool, which grouped_spatial_pack does"),
        (
            dataclasses.replace(record(task), task=conv_record().task),
            "one convolution, which pooling does",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            from_line(wrong.to_line().encode())
    wide = record(task, knobs=pooling.Knobs(99))
    assert records.illegal(wide, HOST) == "knobs that pooling does not have for the task"
    strange = dataclasses.replace(record(task), task=dataclasses.replace(task, op="softmax"))
    assert records.illegal(strange, HOST) == "pooling refuses the task: not a pool"


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_compile_uses_the_record(op: str) -> None:
    """And computes the same."""
    proto = between_convolutions(op, (11, 14), **STRIDED)
    task = pool_in(proto)
    found = Records([])
    found.add(record(task))
    layer = pool_layer(edgeconv.explain(proto, threads=1, records=found))
    assert f"pooling {layer.knobs}" == str(other(task))
    assert layer.reason.startswith("tuned: 1.20 times the default's speed; 117 trials")
    plain = pool_layer(edgeconv.explain(proto, threads=1, records=False))
    assert f"pooling {plain.knobs}" == str(candidates.default(task, HOST, exact=False))
    assert plain.reason.startswith("default knobs")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 11, 14), np.float32)}
    one, two = (
        edgeconv.compile(proto, threads=1, records=source).run(feeds) for source in (found, False)
    )
    for name, wanted in two.items():
        np.testing.assert_allclose(one[name], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_records_that_do_not_hold(tmp_path: Path) -> None:
    """Of another device, of more threads, of other sources, or damaged: the default, aloud."""
    proto = network()
    task, own = pool_in(proto), edgeconv.explain(network(), threads=1, records=False)
    line = record(task).to_line()
    path = records.append(tmp_path, record(task, threads=2))
    records.append(tmp_path, record(task, profile=keys.profile(device())))
    records.append(tmp_path, record(task, source="0" * 16))
    records.append(tmp_path, record(task, knobs=pooling.Knobs(99)))
    with path.open("a") as file:
        file.write(line.replace('"trials": 117', '"trials": 118') + "\n" + line[:-9] + "\n")
    found = records.load(HOST, [tmp_path])
    assert edgeconv.explain(proto, threads=1, records=found) == own
    assert [(f.line, f.reason) for f in found.faults] == [
        (5, "the checksum does not fit: the line was changed or damaged"),
        (6, "the line is torn"),
        (4, "knobs that pooling does not have for the task"),
    ]
    assert len(found.outdated) == 1


class Here(Pretend):
    """Measures in this process, kernels and network."""

    def run(self, task: Any, device: Any, candidates: Any, plan: Plan) -> list[bench.Outcome]:
        """As `Runner.run`; all but the default count as twice as fast as it."""
        self.calls += 1
        found = measured(task, candidates)
        assert not any(o.fault for o in found)
        times = [10.0, *([5.0] * (len(found) - 1))]
        return [bench.Outcome("", (t,) * plan.rounds, (10.0,) * plan.rounds) for t in times]

    def compare(self, before: Path, after: Path) -> Comparison:
        """As `Runner.compare`; none slower than before."""
        bench.open_session(None, 1.0)
        found = compare(str(before), str(after), lambda _: None)
        return dataclasses.replace(
            found, after_ms=found.before_ms, after_steps_us=found.before_steps_us
        )


def test_a_network_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search, final, record, the network with it; a second run has nothing to do."""
    monkeypatch.setattr("edgeconv.tuning.network.BLOCK_S", 1e-4)
    proto = network()
    items = plan.items(api.import_graph(proto), HOST, 1)
    options = Options(trials=4, tasks=(str(pool_item(items).number),))
    tuner = Tuner(items, HOST, options, Here(), tmp_path)
    tuner.run()

    def compile_(source: Any) -> Any:
        return api.compile_artifact(proto, HOST, threads=1, records=source or False)

    found = whole.check_network(tuner, compile_)
    (told,) = summary(tuner, "net", whole.to_json(found))["tasks"]
    tuner.close()
    assert found is not None
    assert found.error == 0
    assert (told["schedule"], told["trials"], told["state"]) == ("pooling", 4, "tuned")
    assert told["workload"].startswith("max_pool2d 20x11x14->20 k3x3 s2x2 p1,1,0,1")
    layer = pool_layer(edgeconv.explain(proto, threads=1, records=tmp_path))
    assert layer.knobs == f"columns={told['knobs']['columns']}"
    assert layer.reason.startswith("tuned: 2.00 times the default's speed; 4 trials")
    (path,) = records.files_in(tmp_path)
    assert path.name == "pooling.jsonl"
    runner = Pretend()
    again = Tuner(items, HOST, options, runner, tmp_path)
    again.run()
    again.close()
    assert runner.calls == 0


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """What was measured of the pool is not measured again."""
    items = plan.items(api.import_graph(network()), HOST, 1)
    pool = pool_item(items).task
    first, second = Pretend(kill_at=len(items) + 1), Pretend()
    one = Tuner(items, HOST, Options(trials=16), first, tmp_path)
    with pytest.raises(Killed):
        one.run()
    one.close()
    two = Tuner(items, HOST, Options(trials=16), second, tmp_path)
    two.run()
    two.close()
    measured = first.measured + second.measured
    counts = {c: n for (task, c), n in measured.items() if task == pool}
    assert set(counts) == set(candidates.space(pool, HOST, exact=False)[1:])
    assert set(counts.values()) == {1}


def test_the_key_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sources of the pools' kernel begin a run anew only where there are pools."""
    conv, pool = Item(1, conv_record().task, ("a",)), Item(2, tasks()[0], ("b",))

    def run_keys() -> list[str]:
        return [plan.run_key(every, HOST, Options()) for every in ([conv], [conv, pool])]

    before, hashed = run_keys(), keys.source_hash
    monkeypatch.setattr(keys, "source_hash", lambda f: "" if f is POOLING else hashed(f))
    after = run_keys()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]
