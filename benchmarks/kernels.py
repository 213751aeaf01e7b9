"""Convolution kernels on their own: tasks as the compiler makes them, many settings in one module,
and arguments in the layouts they want.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeconv import codegen
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.random_layers import layer
from edgeconv.graph.layout import choose_layouts, conv_task, is_scheduled_conv
from edgeconv.graph.parts import parts
from edgeconv.graph.pipeline import optimise
from edgeconv.importer import import_model, read_model
from edgeconv.layout import Layout
from edgeconv.runtime.buffers import aligned
from edgeconv.schedules import Family
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask


def task_within_network(conv: Conv2d, device: Device) -> ConvTask:
    """The task of a convolution between pointwise ones, each with bias and ReLU: its layouts are
    those the compiler chooses. With up to four input channels it is a network's first layer.
    """
    b = Builder("sandwich", (conv.batch, conv.in_channels, conv.height, conv.width))
    x, first = "input", conv.in_channels <= 4
    if not first:
        x = b.relu(b.conv(x, conv.in_channels, conv.in_channels, (1, 1)))
    x = layer(b, x, conv)
    x = b.relu(x)
    model = b.model(b.conv(x, conv.out_channels, 16, (1, 1)))
    graph = import_model(read_model(model))
    optimise(graph, device.lanes)
    plan = choose_layouts(graph, device.lanes)
    convolutions = [n for n in graph.nodes if is_scheduled_conv(n)]
    node = convolutions[0 if first else 1]
    (part,) = parts(node)
    assert part.conv == conv
    return conv_task(node, part, plan)


@dataclass(frozen=True)
class Setting:
    """A family with knobs."""

    family: Family
    knobs: Any

    def __str__(self) -> str:
        pairs = dataclasses.asdict(self.knobs).items()
        return " ".join([self.family.name, *(f"{k}={v}" for k, v in pairs)])


class Bench:
    """The kernels of one task, callable on one set of arrays."""

    def __init__(self, task: ConvTask, device: Device, seed: int = 0) -> None:
        self.task, self.device = task, dataclasses.replace(device, cores=1)
        conv, rng = task.conv, np.random.default_rng(seed)
        in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
        shape = (conv.out_channels, conv.in_channels_per_group, *conv.kernel_size)
        self._data = stored(rng.standard_normal(in_shape, np.float32), task.data)
        self._weight = rng.standard_normal(shape, np.float32)
        self._bias = rng.standard_normal(conv.out_channels, np.float32)
        self._residual: list[np.ndarray] = []
        if task.residual is not None:
            values = rng.standard_normal(conv.output_shape, np.float32)
            self._residual = [stored(values, task.residual)]
        self._out = stored(np.zeros(conv.output_shape, np.float32), task.out)
        self._packed: dict[bytes, np.ndarray] = {}  # many settings pack alike

    def compile(self, settings: Sequence[Setting]) -> list[Callable[[], None]]:
        """One call for each setting, all in one native module; all write `output`.

        Raises:
            BuildError: TVM or LLVM refused a kernel.
        """
        functions = {}
        for i, s in enumerate(settings):
            kernel = s.family.build(self.task, s.knobs, self.device)
            functions[f"kernel{i}"] = codegen.with_pointer_parameters(kernel, f"kernel{i}")
        library = codegen.build(functions, self.device.tvm_target(1))
        return [self._bound(library[f"kernel{i}"], s) for i, s in enumerate(settings)]

    @property
    def output(self) -> np.ndarray:
        """A copy of what the last call wrote, NCHW."""
        return loaded(self._out, self.task.out, self.task.conv.output_shape)

    def _bound(self, kernel: Any, setting: Setting) -> Callable[[], None]:
        family, knobs = setting.family, setting.knobs
        arrays = [self._data, self._pack(family.pack_weights(self.task, knobs, self._weight))]
        if self.task.bias:
            arrays.append(self._pack(family.pack_bias(self.task, knobs, self._bias)))
        arrays += [*self._residual, self._out]
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        return lambda: kernel(*pointers)

    def _pack(self, array: np.ndarray) -> np.ndarray:
        key = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
        key += str(array.size).encode()
        if key not in self._packed:
            self._packed[key] = aligned(array.shape, str(array.dtype))
            self._packed[key][...] = array
        return self._packed[key]


def stored(values: np.ndarray, layout: Layout) -> np.ndarray:
    """NCHW values in a layout's buffer, zeros around them."""
    n, c, h, w = values.shape
    buffer = aligned(layout.buffer_shape(values.shape), "float32", zero=True)
    top, left, _, _ = layout.halo
    chunks = buffer.shape[1]
    padded = np.zeros((n, chunks * layout.block, h, w), np.float32)
    padded[:, :c] = values
    blocks = padded.reshape(n, chunks, layout.block, h, w).transpose(0, 1, 3, 4, 2)
    buffer[:, :, top : top + h, left : left + w] = blocks
    return buffer


def loaded(buffer: np.ndarray, layout: Layout, shape: Sequence[int]) -> np.ndarray:
    """The NCHW values in a layout's buffer."""
    n, c, h, w = shape
    top, left, _, _ = layout.halo
    inner = buffer[:, :, top : top + h, left : left + w]
    return inner.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c].copy()
