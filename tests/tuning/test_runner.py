"""Real processes: a tiny layer is built and timed; bad kernels cost only themselves."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv import codegen, linking
from edgeconv.layout import Layout
from edgeconv.tuning import runner as runner_module
from edgeconv.tuning.bench import Outcome, Plan
from edgeconv.tuning.candidates import Candidate, space
from edgeconv.tuning.runner import DeviceLost, ProcessRunner
from edgeconv.workload import Conv2d, ConvTask
from tests.tuning import children
from tests.tuning.making import device

HOST = device("host")
TASK = ConvTask(
    Conv2d(1, 16, 6, 6, 16, (3, 3), padding=(1, 1, 1, 1)),
    Layout(16, (1, 1, 1, 1)),
    Layout(16),
)
PLAN = Plan(rounds=3, block_s=2e-4)


@functools.cache
def candidates() -> list[Candidate]:
    return space(TASK, HOST, exact=False)[:8]


@pytest.fixture(scope="module")
def runner() -> Iterator[ProcessRunner]:
    made = ProcessRunner(1)
    yield made
    made.close()


def library(body: str) -> bytes:
    """A library whose kernel, taken for number 0, does something else than it should."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("run0")
        arrays = [T.arg(n, tirx.decl_buffer((s,), "float32", name=n)) for n, s in sizes().items()]
        length = tirx.Var("length", "int32")
        T.arg("constants", tirx.decl_buffer((length,), "uint8", name="constants"))
        calls = T.arg("calls", tirx.Var("calls", "int32"))
        for name in ("copies", "stride"):
            T.arg(name, tirx.Var(name, "int32"))
        if body == "crash":
            T.evaluate(tirx.call_llvm_intrin("void", "llvm.trap"))
        elif body == "hang":
            with T.While(calls > 0):
                T.buffer_store(arrays[0], 1.0, [0])
        else:
            with T.serial(calls):
                T.buffer_store(arrays[1], 7.0, [0])
    target = HOST.tvm_target(1)
    linker = linking.find_linker(HOST)
    assert linker is not None
    code = linking.object_code(codegen.build({"run0": builder.get()}, target))
    return linking.link(code, linker, HOST.arch)


def sizes() -> dict[str, int]:
    return {
        "data": TASK.data.elements((1, 16, 6, 6)),
        "out": TASK.out.elements((1, 16, 6, 6)),
    }


def replacing(
    monkeypatch: pytest.MonkeyPatch, runner: ProcessRunner, bad: dict[Candidate, bytes]
) -> None:
    """Put other code into the place of some candidates' kernels."""
    build = runner._build

    def build_and_replace(*arguments: Any) -> Any:
        built = build(*arguments)
        return {c: (bad[c], 0) if c in bad else found for c, found in built.items()}

    monkeypatch.setattr(runner, "_build", build_and_replace)


def test_a_tiny_layer(runner: ProcessRunner) -> None:
    outcomes = runner.run(TASK, HOST, candidates(), PLAN)
    assert [o.fault for o in outcomes] == [""] * 8
    assert outcomes[0].ratio == 1
    for outcome in outcomes:
        assert 0 < min(outcome.samples_us) < 1000
        assert 1 <= len(outcome.samples_us) == len(outcome.default_us) <= 3


@pytest.mark.parametrize(
    ("body", "words"), [("crash", "while running: the process died"), ("wrong", "wrong result")]
)
def test_a_bad_kernel_costs_only_itself(
    runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    bad = candidates()[3]
    replacing(monkeypatch, runner, {bad: library(body)})
    outcomes = dict(zip(candidates(), runner.run(TASK, HOST, candidates(), PLAN), strict=True))
    assert words in outcomes.pop(bad).fault
    assert all(o.samples_us and not o.fault for o in outcomes.values())


@pytest.mark.slow
def test_a_kernel_that_hangs(runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = candidates()[1]
    monkeypatch.setattr(runner.boards[0], "timeout_s", 4.0)
    replacing(monkeypatch, runner, {bad: library("hang")})
    few = candidates()[:3]
    outcomes = runner.run(TASK, HOST, few, PLAN)
    assert [bool(o.samples_us) for o in outcomes] == [True, False, True]
    assert "while running: no answer within 4 s" in outcomes[1].fault


@pytest.mark.slow
def test_a_default_that_crashes(runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    few = candidates()[:3]
    replacing(monkeypatch, runner, {few[0]: library("crash")})
    outcomes = runner.run(TASK, HOST, few, PLAN)
    assert "the process died" in outcomes[0].fault
    assert {o.fault for o in outcomes[1:]} == {"not measured: the default failed"}


def test_knobs_that_do_not_compile(runner: ProcessRunner) -> None:
    """Such candidates do not exist; if they do, the others don't suffer."""
    few = candidates()[:3]
    wrong = Candidate("winograd", space(TASK, HOST, exact=True)[0].knobs)  # another family's
    outcomes = runner.run(TASK, HOST, [few[0], wrong, few[1]], PLAN)
    assert [bool(o.samples_us) for o in outcomes] == [True, False, True]
    assert outcomes[1].fault.startswith("while compiling: ")


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "TRIES", 1)
    made = ProcessRunner(1)
    monkeypatch.setattr(made, "_build", _unbuilt)
    monkeypatch.setattr(made.boards[0].process, "_setup", (children.fail_after_note_free,))
    with pytest.raises(DeviceLost, match=r"no device is left .*: this machine \(.*no board\)"):
        made.run(TASK, HOST, candidates()[:2], PLAN)
    made.close()


def _unbuilt(task: ConvTask, on: object, wanted: list[Candidate]) -> dict[Candidate, Any]:
    return {c: (b"", number) for number, c in enumerate(wanted)}


def test_a_noisy_machine_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quietest of the measurements counts."""
    made = ProcessRunner(1)
    monkeypatch.setattr(runner_module, "COOL_DOWN_S", (0.0, 0.0))
    spreads = [5.0, 3.0, 4.0]
    default, other = candidates()[:2]

    def measure(job: Any) -> dict[Candidate, Outcome]:
        spread = spreads.pop(0)
        own = tuple(10.0 + spread * (i % 2) for i in range(9))
        return {c: Outcome("", (spread,) * 9, own) for c in (default, other)}

    monkeypatch.setattr(made, "_build", _unbuilt)
    monkeypatch.setattr(made, "_measure", measure)
    outcomes = made.run(TASK, HOST, [default, other], PLAN)
    assert [o.samples_us[0] for o in outcomes] == [3.0, 3.0]
    assert not spreads
    made.close()
