"""Copies between NCHW and channel blocks: exact, halo untouched, both ways, every kind of tail."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import pytest

import edgeconv
from edgeconv import codegen
from edgeconv.layout import PLAIN, Layout
from edgeconv.runtime.buffers import aligned
from edgeconv.schedules import relayout
from edgeconv.schedules.tensor_expr import Tensor, TensorTask
from edgeconv.targets import Device, host, load
from tests.e2e.models import ModelMaker

SHAPES = [(1, 64, 8, 8), (2, 60, 13, 17), (1, 17, 4, 4), (1, 512, 7, 7), (3, 33, 5, 40)]
SHAPES += [(1, 37, 32, 32), (2, 16, 31, 33)]  # planes a page apart, and nearly so
HALOS = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3)]


def copying(shape: tuple[int, ...], source: Layout, target: Layout) -> TensorTask:
    """A copy from one layout into another."""
    x, out = (Tensor(shape, "float32", layout) for layout in (source, target))
    return TensorTask("copy", (), (x,), (out,))


def blocked(x: np.ndarray, layout: Layout, fill: float) -> np.ndarray:
    """x in the layout; halo and padding lanes hold `fill`."""
    _, c, h, w = x.shape
    top, left, _, _ = layout.halo
    buffer = np.full(layout.buffer_shape(x.shape), fill, np.float32)
    for channel in range(c):
        chunk, lane = divmod(channel, layout.block)
        buffer[:, chunk, top : top + h, left : left + w, lane] = x[:, channel]
    return buffer


FAR = dataclasses.replace(host(), name="far", l2_kib=1)  # maps don't stay in such a cache


@pytest.mark.parametrize("device", [host(), FAR, load("x86-avx2"), load("x86-sse4")], ids=str)
@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways(shape: tuple[int, ...], halo: tuple[int, ...], device: Device) -> None:
    if not device.is_native:
        pytest.skip(f"this machine does not run {device.name}")
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for block in (device.lanes, shape[1]):
        layout = Layout(block, halo)  # type: ignore[arg-type]
        wanted = blocked(values, layout, -1)
        for source, target in ((PLAIN, layout), (layout, PLAIN)):
            task = copying(shape, source, target)
            assert relayout.supports(task, device)
            func = relayout.build(task, device)
            kernel = codegen.with_pointer_parameters(func, "kernel")
            run = codegen.build({"kernel": kernel}, device.tvm_target(1))["kernel"]
            planes, blocks = aligned(shape, "float32"), aligned(wanted.shape, "float32")
            blocks[...] = -1 if target is layout else wanted
            planes[...] = values if target is layout else -1
            order = (planes, blocks) if target is layout else (blocks, planes)
            run(*(ctypes.c_void_p(a.ctypes.data) for a in order))
            if target is PLAIN:
                assert np.array_equal(planes, values)
            else:
                rim = wanted == -1
                channels = np.arange(wanted.shape[1] * block).reshape(-1, 1, 1, block) < shape[1]
                assert np.array_equal(blocks[~rim], wanted[~rim])
                assert (blocks[rim & channels[None]] == -1).all(), "the halo was written"


@pytest.mark.parametrize(
    ("shape", "source", "target"),
    [
        ((1, 3, 32, 32), PLAIN, Layout(1, (1, 1, 1, 1))),  # nothing to transpose
        ((1, 64, 3, 3), PLAIN, Layout(16)),  # fewer pixels than any tile of 16
        ((64, 64), PLAIN, PLAIN),
        ((1, 64, 8, 8), PLAIN, PLAIN),  # a plain copy: no side has channel blocks
    ],
)
def test_refuses(shape: tuple[int, ...], source: Layout, target: Layout) -> None:
    device = load("x86-avx512")
    assert not relayout.supports(copying(shape, source, target), device)


@pytest.mark.parametrize("target", ["host", "x86-avx2", "x86-sse4"])
@pytest.mark.parametrize(
    ("shape", "perm", "schedule"),
    [
        ((100, 300), (1, 0), "relayout"),
        ((3, 20, 33), (0, 2, 1), "relayout"),
        ((2, 17, 19, 23), (0, 3, 1, 2), "relayout"),
        ((2, 3, 19, 23), (0, 2, 3, 1), "tensor_expression"),  # too few for a vector of either side
        ((2, 17, 19, 23), (0, 2, 1, 3), "tensor_expression"),
        ((20, 21, 22), (2, 1, 0), "tensor_expression"),
        ((20, 21), (0, 1), "tensor_expression"),
    ],
)
def test_transposes(
    shape: tuple[int, ...], perm: tuple[int, ...], schedule: str, target: str
) -> None:
    maker = ModelMaker(0)
    model = maker.model(maker.node("Transpose", maker.input("x", *shape), perm=perm))
    (layer,) = edgeconv.explain(model, target=target, threads=1)
    assert layer.schedule == schedule
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    (found,) = edgeconv.compile(model, target=target, threads=1).run({"x": x}).values()
    np.testing.assert_array_equal(found, x.transpose(perm))
