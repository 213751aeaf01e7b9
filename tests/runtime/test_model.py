"""Compiled models: every way in and out, wrong inputs, foreign tensors, several threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeconv
from edgeconv.errors import InputError
from tests.e2e.models import ModelMaker, assert_close, expected, relative_error

TOLERANCE = 1e-5


def small_network(seed: int = 0, channels: int = 17, size: int = 12) -> ModelMaker:
    """x -> convolution, pooling, residual, dense layer; not yet closed."""
    maker = ModelMaker(seed)
    x = maker.input("x", 1, 3, size, size)
    y = maker.node("Relu", maker.conv(x, 3, channels))
    z = maker.conv(y, channels, channels)
    s = maker.node("Add", z, y)
    p = maker.node("MaxPool", s, kernel_shape=(2, 2), strides=(2, 2))
    maker.node("Sigmoid", maker.conv(p, channels, 5, 1))
    return maker


def network(seed: int = 0, **size: int) -> object:
    """A small model with one input and one output."""
    maker = small_network(seed, **size)
    return maker.model(maker.nodes[-1].output[0])


@pytest.fixture(scope="module")
def proto() -> object:
    return network()


@pytest.fixture(scope="module")
def model(proto: object) -> edgeconv.Model:
    return edgeconv.compile(proto, threads=1)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((1, 3, 12, 12), np.float32)


@pytest.fixture
def wanted(proto: object, x: np.ndarray) -> dict[str, np.ndarray]:
    return expected(proto, {"x": x})


def test_run(model: edgeconv.Model, x: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    assert_close(model.run({"x": x}), wanted, TOLERANCE)


def test_results_are_the_callers_own(model: edgeconv.Model, x: np.ndarray) -> None:
    first = model.run({"x": x})
    kept = {n: a.copy() for n, a in first.items()}
    model.run({"x": -x})
    assert_close(first, kept, 0)


def test_call_with_positions(
    model: edgeconv.Model, x: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    (only,) = wanted.values()
    result = model(x)
    assert isinstance(result, np.ndarray)
    assert relative_error(result, only) <= TOLERANCE
    with pytest.raises(InputError, match="got 2 positional inputs"):
        model(x, x)


def test_several_inputs_and_outputs() -> None:
    maker = ModelMaker()
    a, b = maker.input("a", 2, 4, 5, 6), maker.input("b", 2, 4, 5, 6)
    total = maker.node("Add", maker.conv(a, 4, 4), b)
    made = maker.model(total, maker.node("Relu", b))
    compiled = edgeconv.compile(made, threads=1)
    feeds = compiled.random_inputs(3)
    assert [s.name for s in compiled.inputs] == ["a", "b"]
    assert len(compiled.outputs) == 2
    assert_close(compiled.run(feeds), expected(made, feeds), TOLERANCE)
    results = compiled(feeds["a"], feeds["b"])
    assert isinstance(results, dict)
    assert_close(results, expected(made, feeds), TOLERANCE)


def test_bound_call_reads_its_buffers_anew(
    model: edgeconv.Model, x: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    call = model.bind({"x": x})
    assert call.inputs["x"] is x
    assert_close(call(), wanted, TOLERANCE)
    results = dict(call.outputs)
    before = {n: a.copy() for n, a in results.items()}
    x *= -2
    again = call()
    assert all(again[n] is results[n] for n in results)  # the same memory each time
    assert_close(again, model.run({"x": x}), 0)
    assert any(not np.array_equal(before[n], call.outputs[n]) for n in before)


def test_bound_call_survives_its_model(proto: object, x: np.ndarray) -> None:
    wanted = expected(proto, {"x": x})
    call = edgeconv.compile(proto, threads=1).bind({"x": x.copy()})
    for _ in range(3):
        assert_close(call(), wanted, TOLERANCE)


def test_two_models_alternate() -> None:
    protos = [network(seed, channels=8 + 9 * seed, size=12 + seed) for seed in (1, 2)]
    models = [edgeconv.compile(p, threads=1 + i) for i, p in enumerate(protos)]
    for seed in range(3):
        for compiled, proto in zip(models, protos, strict=True):
            feeds = compiled.random_inputs(seed)
            assert_close(compiled.run(feeds), expected(proto, feeds), TOLERANCE)


# foreign tensors

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran order": np.asfortranarray,
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=3)[..., ::2],
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "big endian": lambda a: a.astype(">f4"),
}


def misaligned(array: np.ndarray, offset: int = 4) -> np.ndarray:
    """A copy whose data starts `offset` bytes behind a multiple of 64."""
    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n != "big endian"])
def test_strided_arrays(model: edgeconv.Model, x: np.ndarray, name: str) -> None:
    strided = LAYOUTS[name](x)
    assert_close(model.run({"x": strided}), model.run({"x": np.array(strided)}), 0)
    assert_close(model.bind({"x": strided})(), model.run({"x": np.array(strided)}), 0)


def test_big_endian_arrays_are_refused_or_right(model: edgeconv.Model, x: np.ndarray) -> None:
    try:
        results = model.run({"x": LAYOUTS["big endian"](x)})
    except InputError:
        return
    assert_close(results, model.run({"x": x}), 0)


def test_read_only_arrays(model: edgeconv.Model, x: np.ndarray) -> None:
    wanted = model.run({"x": x})
    x.flags.writeable = False
    assert_close(model.run({"x": x}), wanted, 0)
    assert_close(model.bind({"x": x})(), wanted, 0)


def single_pixels(groups: int, residual: bool) -> object:
    """Maps of 1x1, which are read row-major and in whole vectors."""
    maker = ModelMaker()
    y = maker.conv(maker.input("x", 2, 64, 1, 1), 64, 64, 1, groups=groups)
    if residual:
        y = maker.node("Add", y, maker.input("r", 2, 64, 1, 1))
    return maker.model(maker.node("Relu", y))


def many_operators() -> object:
    """Inputs that are read by pooling, arithmetic, reductions and copies."""
    maker = ModelMaker()
    x = maker.input("x", 1, 32, 9, 16)
    pool = maker.node("MaxPool", x, kernel_shape=(3, 3))
    total = maker.node("Add", x, maker.input("y", 1, 32, 9, 16))
    mean = maker.node("ReduceMean", x, axes=(2, 3))
    soft = maker.node("Softmax", x, axis=3)
    rows = maker.node("ReduceSum", x, maker.constant(np.array([3])))
    return maker.model(pool, total, mean, soft, rows, maker.conv(x, 32, 32))


@pytest.mark.parametrize("offset", [4, 8, 16, 32])
@pytest.mark.parametrize("kind", ["network", "pixels", "grouped", "residual", "operators"])
def test_misaligned_arrays(proto: object, kind: str, offset: int) -> None:
    made = {
        "network": lambda: proto,
        "pixels": lambda: single_pixels(1, False),
        "grouped": lambda: single_pixels(16, False),
        "residual": lambda: single_pixels(16, True),
        "operators": many_operators,
    }[kind]()
    compiled = edgeconv.compile(made, threads=1)
    feeds = compiled.random_inputs()
    moved = {n: misaligned(a, offset) for n, a in feeds.items()}
    assert all(a.ctypes.data % 64 == offset for a in moved.values())
    assert_close(compiled.run(moved), expected(made, feeds), TOLERANCE)
    assert_close(compiled.bind(moved)(), expected(made, feeds), TOLERANCE)


def test_torch_tensors(model: edgeconv.Model, x: np.ndarray) -> None:
    wanted = model.run({"x": x})
    tensor = torch.from_numpy(x.copy())
    assert_close(model.run({"x": tensor}), wanted, 0)
    assert_close(model.run({"x": tensor.to(memory_format=torch.channels_last)}), wanted, 0)
    call = model.bind({"x": tensor})
    tensor.mul_(-1)  # the call reads the tensor's own memory
    assert_close(call(), model.run({"x": -x}), 0)


def test_tensors_with_gradients_are_explained(model: edgeconv.Model, x: np.ndarray) -> None:
    with pytest.raises(InputError, match="'x'"):
        model.run({"x": torch.from_numpy(x).requires_grad_()})


def test_lists_and_numbers() -> None:
    maker = ModelMaker()
    made = maker.model(maker.node("Relu", maker.input("x", 2, 2)))
    np.testing.assert_array_equal(edgeconv.compile(made)([[-1, 2], [3.5, -4]]), [[0, 2], [3.5, 0]])


# wrong inputs


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "missing: x"),
        ({"y": np.zeros((1, 3, 12, 12), np.float32)}, "missing: x; unknown: y"),
        ({"x": np.zeros((1, 3, 12, 12), np.float32), "y": 0}, "unknown: y"),
        ({"x": np.zeros((1, 3, 12, 13), np.float32)}, r"\[1, 3, 12, 13\].*\[1, 3, 12, 12\]"),
        ({"x": np.zeros((3, 12, 12), np.float32)}, "shape"),
        ({"x": np.zeros((1, 3, 12, 12))}, "float64.*float32"),
        ({"x": np.zeros((1, 3, 12, 12), np.int32)}, "int32"),
        ({"x": np.zeros((1, 3, 12, 12), np.complex64)}, "complex64"),
        ({"x": np.full((1, 3, 12, 12), "a")}, "float32"),
        ({"x": np.full((1, 3, 12, 12), None)}, "object"),
        ({"x": torch.zeros((1, 3, 12, 12), dtype=torch.float64)}, "float64"),
        ({"x": torch.zeros((1, 3, 12, 12), dtype=torch.bfloat16)}, "'x'"),
        ({"x": torch.zeros((1, 3, 12, 12), device="meta")}, "'x'"),
        ({"x": None}, "'x'"),
        ({"x": "text"}, "'x'"),
        ({"x": [[1, 2], [3]]}, "'x'"),
        ({1: np.zeros(1), "x": np.zeros(1)}, "unknown: 1"),
    ],
)
def test_wrong_inputs_are_explained(model: edgeconv.Model, feeds: dict, message: str) -> None:
    for use in (model.run, model.bind):
        with pytest.raises(InputError, match=message):
            use(feeds)


# threads


def test_concurrent_runs(model: edgeconv.Model) -> None:
    inputs = [model.random_inputs(seed) for seed in range(4)]
    wanted = [model.run(i) for i in inputs]
    faults: list[object] = []

    def work(number: int) -> None:
        call = model.bind(inputs[number])
        for _ in range(100):
            for results in (model.run(inputs[number]), call()):
                for name, array in results.items():
                    if not np.array_equal(array, wanted[number][name]):
                        faults.append((number, name))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults


def big_network(threads: int) -> edgeconv.Model:
    """Large enough that kernels run in parallel."""
    return edgeconv.compile(network(channels=48, size=40), threads=threads)


def test_threads_do_not_change_results() -> None:
    one, two = big_network(1), big_network(2)
    feeds = one.random_inputs()
    assert_close(two.run(feeds), one.run(feeds), 1e-6)
    assert (one.threads, two.threads) == (1, 2)


AFFINITY = """
    import os, threading
    from tests.runtime.test_model import big_network
    if __name__ == "__main__":
        before = os.sched_getaffinity(0)
        model = big_network(2)
        feeds = model.random_inputs()
        wanted = model.run(feeds)
        assert os.sched_getaffinity(0) == before, "main thread"
        faults = []
        ready = threading.Barrier(3)
        def work():
            model.run(feeds)
            ready.wait()  # TVM pins workers while it makes a pool; all three exist now
            for _ in range(20):
                results = model.run(feeds)
                for task in os.listdir("/proc/self/task"):
                    if os.sched_getaffinity(int(task)) != before:
                        faults.append((task, os.sched_getaffinity(int(task))))
                if any((results[n] != wanted[n]).any() for n in wanted):
                    faults.append("results")
        workers = [threading.Thread(target=work) for _ in range(3)]
        [w.start() for w in workers]
        [w.join() for w in workers]
        assert not faults, faults[:3]
        print("fine")
"""


WORKERS = """
    import os, threading
    from tests.runtime.test_model import big_network
    if __name__ == "__main__":
        model = big_network(2)
        feeds = model.random_inputs()
        model.run(feeds)
        before = len(os.listdir("/proc/self/task"))
        def work():
            model.run(feeds)
            assert len(os.listdir("/proc/self/task")) >= before + 2  # this one and a worker
            print("fine")
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="affinity and /proc are Linux's")
@pytest.mark.parametrize("script", [AFFINITY, WORKERS], ids=["affinity", "workers"])
def test_threads_of_a_process(script: str) -> None:
    """In a process of its own, without TVM's environment variables: as a user has it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TVM_")}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=root,
        env={**clean, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "fine", done.stderr[-2000:]


# measuring


def test_benchmark(model: edgeconv.Model) -> None:
    latency = model.benchmark(warmup=1, repeat=5, min_repeat_ms=0.2)
    assert len(latency.samples) == 5
    assert latency.calls >= 1
    assert 0 < min(latency.samples) <= latency.p10 <= latency.median <= latency.p90
    assert min(latency.samples) <= latency.mean <= max(latency.samples)
    assert latency.to_json()["samples_ms"] == list(latency.samples)
    assert "median" in str(latency)


@pytest.mark.parametrize("wrong", [{"repeat": 0}, {"warmup": -1}, {"min_repeat_ms": -1}])
def test_benchmark_refuses_bad_counts(model: edgeconv.Model, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        model.benchmark(**wrong)  # type: ignore[arg-type]


def test_profile(model: edgeconv.Model, x: np.ndarray) -> None:
    wanted = model.run({"x": x})
    profile = model.profile({"x": x}, repeat=3)
    assert [r.name for r in profile.rows] == [layer.name for layer in model.manifest.layers]
    assert sum(r.share for r in profile.rows) == pytest.approx(1)
    assert profile.total_ms == pytest.approx(sum(r.ms for r in profile.rows))
    convolutions = [r for r in profile.rows if "->" in r.workload and " k" in r.workload]
    assert convolutions
    assert all(r.gflops > 0 and r.bytes > 0 for r in convolutions)
    assert len(str(profile).splitlines()) == len(profile.rows) + 1
    assert_close(model.run({"x": x}), wanted, 0)  # running single steps breaks nothing
    with pytest.raises(ValueError, match="at least 1"):
        model.profile(repeat=0)


def test_random_inputs_come_from_the_seed(model: edgeconv.Model) -> None:
    first, again, other = (model.random_inputs(s)["x"] for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32


def test_repr_names_the_model(model: edgeconv.Model) -> None:
    assert "x: float32[1, 3, 12, 12]" in repr(model)
    assert model.target.name == "host"


def test_save_and_load(model: edgeconv.Model, tmp_path: Path, x: np.ndarray) -> None:
    path = model.save(tmp_path / "net.edgeconv")
    loaded = edgeconv.load(path)
    assert loaded.manifest == model.manifest
    assert_close(loaded.run({"x": x}), model.run({"x": x}), 0)
    second = loaded.save(tmp_path / "again.edgeconv")  # a loaded model can be saved once more
    assert_close(edgeconv.load(second).run({"x": x}), model.run({"x": x}), 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.edgeconv", "net.edgeconv"]


@pytest.mark.slow
def test_overhead() -> None:
    """Loose limits for a noisy machine: the fastest of many samples."""
    import time

    maker = ModelMaker()
    made = maker.model(maker.node("Relu", maker.input("x", 1, 4)))
    compiled = edgeconv.compile(made, threads=1)
    feeds = compiled.random_inputs()
    call = compiled.bind(feeds)
    arguments = call._arguments

    def fastest(work: Callable[[], object]) -> float:
        samples = []
        for _ in range(300):
            start = time.perf_counter()
            for _ in range(20):
                work()
            samples.append((time.perf_counter() - start) / 20 * 1e6)
        return min(samples)

    raw = fastest(lambda: compiled._main(*arguments))
    assert fastest(call) - raw <= 8
    assert fastest(lambda: compiled.run(feeds)) - raw <= 30


@pytest.mark.parametrize("value", [np.zeros(3), [np.zeros(3)], "x", None])
def test_inputs_that_are_no_mapping(value: object) -> None:
    compiled = edgeconv.compile(network(channels=4, size=5), threads=1)
    for use in (compiled.run, compiled.bind):
        with pytest.raises(InputError, match="inputs are a dict by name"):
            use(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [(1, 3), {"x": "abc"}, {"x": 5}, {"x": (1.5, 2)}])
def test_input_shapes_of_the_wrong_form(shapes: object) -> None:
    with pytest.raises(InputError, match="input_shapes is a mapping"):
        edgeconv.compile(network(channels=4, size=5), input_shapes=shapes)  # type: ignore[arg-type]
