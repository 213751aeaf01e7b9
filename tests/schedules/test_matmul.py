"""Products of computed matrices, against NumPy; whole numbers, so that sums are exact."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import edgeconv
from edgeconv.layout import Layout
from edgeconv.schedules import matmul
from edgeconv.schedules.tensor_expr import Tensor, TensorTask
from edgeconv.targets import load
from tests.schedules.kernels import device

Shape = tuple[int, ...]


def product(a: Shape, b: Shape) -> onnx.ModelProto:
    """A network that is one matrix product."""
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    sizes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("a", a), ("b", b), ("y", shape))
    ]
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    graph = helper.make_graph(nodes, "product", sizes[:2], sizes[2:])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def check(a: Shape, b: Shape, target: str = "host", threads: int = 1) -> None:
    """The product by edgeconv is NumPy's."""
    model = product(a, b)
    (layer,) = edgeconv.explain(model, target=target, threads=threads)
    assert layer.schedule == "matmul"
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.integers(-8, 9, shape).astype(np.float32) for name, shape in (("a", a), ("b", b))
    }
    found = edgeconv.compile(model, target=target, threads=threads).run(feeds)["y"]
    np.testing.assert_array_equal(found, np.matmul(feeds["a"], feeds["b"]))


@st.composite
def operands(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Two shapes that multiply; their leading axes may broadcast, or be missing."""
    m, k, n = (draw(st.integers(1, 70)) for _ in range(3))
    axes = draw(st.lists(st.integers(1, 3), max_size=3))
    batches = []
    for _ in range(2):
        kept = axes[draw(st.integers(0, len(axes))) :]
        batches.append([extent if draw(st.booleans()) else 1 for extent in kept])
    return (*batches[0], m, k), (*batches[1], k, n)


@pytest.mark.parametrize("target", ["host", "x86-avx2", "x86-sse4"])
def test_any_shapes(target: str) -> None:
    if not device(target).is_native:
        pytest.skip(f"this machine can't run code for {target}")

    @settings(max_examples=12)
    @given(operands(), st.integers(1, 2))
    def run(shapes: tuple[Shape, Shape], threads: int) -> None:
        check(*shapes, target=target, threads=threads)

    run()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 1, 1), (1, 1, 1)),
        ((7, 9), (9, 1)),
        ((1, 300), (300, 80)),
        ((2, 1, 5, 7), (3, 7, 9)),
        ((197, 64), (64, 197)),
    ],
)
def test_vectors_and_tails(a: Shape, b: Shape) -> None:
    for threads in (1, 2):
        check(a, b, threads=threads)


@pytest.mark.parametrize("name", ["x86-avx512", "x86-avx2", "raspberry-pi-4", "raspberry-pi-2"])
def test_tiles_fit_the_registers(name: str) -> None:
    cpu = load(name)
    for m, n in ((1, 1), (3, 700), (144, 144), (577, 32), (50, 5)):
        tile = matmul.tile_for(m, n, cpu)
        assert tile.lanes <= min(n, cpu.lanes)
        assert tile.rows <= m
        assert tile.vectors <= math.ceil(n / tile.lanes)
        assert tile.rows * tile.vectors + tile.vectors < cpu.vector_registers


def test_leaves_other_tasks_alone() -> None:
    cpu = load("x86-avx512")

    def task(op: str, dtype: str, layout: Layout) -> TensorTask:
        tensor = Tensor((1, 8, 8, 8), dtype, layout)
        return TensorTask(op, (), (tensor, tensor), (tensor,))

    assert matmul.supports(task("matmul", "float32", Layout(0)), cpu)
    assert not matmul.supports(task("matmul", "int32", Layout(0)), cpu)
    assert not matmul.supports(task("matmul", "float32", Layout(8)), cpu)
    assert not matmul.supports(task("add", "float32", Layout(0)), cpu)
