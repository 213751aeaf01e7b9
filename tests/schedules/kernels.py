"""Runs scheduled convolution kernels on buffers made by hand: layouts, rims and padding lanes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi

from edgeconv import codegen, targets
from edgeconv.codegen import Operand, Step
from edgeconv.layout import Layout
from edgeconv.runtime.buffers import aligned
from edgeconv.schedules import Family
from edgeconv.targets import Device
from edgeconv.workload import ConvTask
from tests.e2e.models import convolution

DEVICES = ("host", "x86-avx2", "x86-sse4", "raspberry-pi-4")  # whose kernels are run
UNTOUCHED = np.float32(-12345)  # what output buffers hold before
PADDING_LANE = np.float32(999)  # what padding lanes of inputs hold: any finite value must do


@functools.cache
def device(name: str = "host", cores: int = 1) -> Device:
    """A device with another number of cores."""
    import dataclasses

    return dataclasses.replace(targets.load(name), cores=cores)


def pack(x: np.ndarray, layout: Layout) -> np.ndarray:
    """An NCHW array as a buffer: zero rims, padding lanes full of rubbish."""
    n, c, h, w = x.shape
    chunks, block = -(-c // layout.block), layout.block
    filled = np.full((n, chunks * block, h, w), PADDING_LANE, np.float32)
    filled[:, :c] = x
    blocked = filled.reshape(n, chunks, block, h, w).transpose(0, 1, 3, 4, 2)
    top, left, bottom, right = layout.halo
    return np.pad(blocked, ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)))


def unpack(buffer: np.ndarray, shape: Sequence[int], layout: Layout) -> np.ndarray:
    """The NCHW array in a buffer."""
    n, c, h, w = shape
    top, left, _, _ = layout.halo
    interior = buffer.reshape(layout.buffer_shape(shape))[:, :, top : top + h, left : left + w]
    return interior.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c]


def rim(buffer: np.ndarray, shape: Sequence[int], layout: Layout) -> np.ndarray:
    """All elements of the halo."""
    _, _, h, w = shape
    top, left, _, _ = layout.halo
    mask = np.ones(layout.buffer_shape(shape), bool)
    mask[:, :, top : top + h, left : left + w] = False
    return buffer.reshape(mask.shape)[mask]


@dataclass(frozen=True)
class Data:
    """Whole numbers for a task, and what the convolution makes of them."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    residual: np.ndarray
    wanted: np.ndarray


def whole_numbers(task: ConvTask, seed: int = 0, x: np.ndarray | None = None) -> Data:
    """Small integers, for which float32 sums are exact; the input too, unless it is given."""
    conv, rng = task.conv, np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(-4, 5, shape).astype(np.float32)

    drawn = draw(conv.batch, conv.in_channels, conv.height, conv.width)
    x = drawn if x is None else x
    weight = draw(conv.out_channels, conv.in_channels_per_group, *conv.kernel_size)
    if conv.clusters is not None:
        weight *= conv.clusters.reads()[:, :, None, None]
    bias, residual = draw(conv.out_channels), draw(*conv.output_shape)
    shuffle = conv.input_shuffle
    order = np.arange(conv.in_channels).reshape(shuffle, -1).T.reshape(-1)
    wanted = convolution(
        x[:, order],
        weight,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )
    if task.bias:
        wanted = wanted + bias.reshape(1, -1, 1, 1)
    if task.residual is not None:
        wanted = wanted + residual
    if task.activation is not None:
        assert task.activation[0] == "relu"
        wanted = np.maximum(wanted, 0)
    return Data(x, weight, bias, residual, wanted.astype(np.float32))


class Kernels:
    """Many kernels in one module, each run on its own."""

    def __init__(self, target: Device) -> None:
        self.device = target
        self.functions: dict[str, Any] = {}
        self.steps: list[Step] = []
        self.jobs: list[tuple[str, ConvTask, Data, bool]] = []
        self.constants: list[np.ndarray] = []
        self.size = self.scratch = 0

    def _store(self, array: np.ndarray) -> Operand:
        raw = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
        self.constants.append(np.pad(raw, (0, -raw.size % 64)))
        operand = Operand("constants", 0, self.size)
        self.size += self.constants[-1].size
        return operand

    def add(self, family: Family, task: ConvTask, knobs: Any, data: Data | None = None) -> None:
        """Append a kernel; without data, with random whole numbers."""
        data = whole_numbers(task) if data is None else data
        arrays = [pack(data.x, task.data), family.pack_weights(task, knobs, data.weight)]
        if task.bias:
            arrays.append(family.pack_bias(task, knobs, data.bias))
        if task.residual is not None:
            arrays.append(pack(data.residual, task.residual))
        function = family.build(task, knobs, self.device)
        self.append(f"{family.name} {task} {knobs}", function, arrays, task, data, family.exact)

    def append(
        self,
        title: str,
        function: Any,
        arrays: Sequence[np.ndarray],
        task: ConvTask,
        data: Data,
        exact: bool,
    ) -> None:
        """Append a kernel of these operands, whose result is to be `data.wanted` as in `task`."""
        name = f"kernel_{len(self.steps)}"
        self.functions[name] = codegen.with_pointer_parameters(function, name)
        operands = [*map(self._store, arrays), Operand("workspace", 0, 0)]
        self.scratch = max(self.scratch, task.out.elements(task.conv.output_shape) * 4)
        self.steps.append(Step(name, tuple(operands), name))
        self.jobs.append((title, task, data, exact))

    def main(self) -> Any:
        """The entry point of the built module."""
        function = codegen.main_function([], [], self.size, self.scratch, self.steps)
        target = self.device.tvm_target(self.device.cores)
        return codegen.build({**self.functions, "main": function}, target)["main"]

    def check(self, tolerance: float = 1e-5) -> None:
        """Every result equal to the last bit, or where the family is not exact, to `tolerance` of
        the largest; every rim untouched.
        """
        main = self.main()
        constants = aligned((max(self.size, 1),), "uint8")
        constants[: self.size] = np.concatenate(self.constants)
        workspace = aligned((max(self.scratch, 1),), "uint8")
        memory = [tvm_ffi.from_dlpack(a) for a in (constants, workspace)]
        floats = workspace[: self.scratch].view(np.float32)
        faults = []
        for number, (title, task, data, exact) in enumerate(self.jobs):
            floats[:] = UNTOUCHED
            main(*memory, number, number + 1)
            shape = task.conv.output_shape
            size = task.out.elements(shape)
            error = np.abs(unpack(floats[:size], shape, task.out) - data.wanted).max()
            if not error <= (0 if exact else tolerance * np.abs(data.wanted).max()):
                faults.append(f"wrong result: {title}")
            if (rim(floats[:size], shape, task.out) != UNTOUCHED).any():
                faults.append(f"rim overwritten: {title}")
            if (floats[size:] != UNTOUCHED).any():
                faults.append(f"written behind the end: {title}")
        assert not faults, "\n".join(faults[:5])
