"""Candidates of a task as a shared library, in builder processes.

The kernels are those of a network, called as a network calls them. Before each run of a kernel the
weights are as cold as in a network: a call goes from copy to copy of them, twice the L2 cache long.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv import codegen, fusion, linking, memory
from edgeconv.errors import BuildError
from edgeconv.schedules.pairs import PairFamily
from edgeconv.targets import Device
from edgeconv.tuning import numbers
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.families import TwoKernels
from edgeconv.workload import ConvolutionTask, ConvTask, PairTask, PoolTask, Task

MOST_COPIES = 256


@dataclass(frozen=True)
class Step:
    """A kernel of a candidate.

    Attributes:
        build: makes it.
        operands: names of arrays (see `shapes`), and numbers of constants (see `packed`).
    """

    build: Callable[[], tirx.PrimFunc]
    operands: tuple[str | int, ...]


def steps(task: Task, device: Device, candidate: Candidate) -> list[Step]:
    """The kernels of a candidate, in order: one, or of a pair that is not fused, two."""
    schedule: Any = candidate.of
    if not isinstance(candidate.of, TwoKernels):
        build = functools.partial(schedule.build, task, candidate.knobs, device)
        operands = (
            ("data", "out") if isinstance(task, PoolTask) else _operands(task, "data", 0, "out")
        )
        return [Step(build, operands)]
    assert isinstance(task, PairTask)
    found, places = [], (("data", "between"), ("between", "out"))
    count = 0
    for half, choice, (data, out) in zip(
        fusion.halves(task, device), fusion.choose_apart(task, device), places, strict=True
    ):
        build = functools.partial(choice.family.build, half, choice.knobs, device)
        found.append(Step(build, _operands(half, data, count, out)))
        count += 1 + half.bias
    return found


def _operands(task: ConvolutionTask, data: str, first: int, out: str) -> tuple[str | int, ...]:
    """Of one kernel, whose constants are numbered from `first`."""
    count = sum(1 + half.bias for half in task.convolutions)
    residual = ["residual"] * (task.convolutions[-1].residual is not None)
    return (data, *range(first, first + count), *residual, out)


def packed(
    task: Task,
    device: Device,
    candidate: Candidate,
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Weights and bias of each convolution, as the candidate's kernels read them."""
    knobs = candidate.knobs
    if isinstance(task, PoolTask):
        return []
    halves: Sequence[tuple[ConvTask, Any, Any]]
    if isinstance(task, ConvTask):
        halves = [(task, candidate.of, knobs)]
    elif isinstance(candidate.of, PairFamily):
        given = [
            b if half.bias else None for half, b in zip(task.convolutions, biases, strict=True)
        ]
        return candidate.of.pack(task, knobs, weights, given)
    else:
        choices = fusion.choose_apart(task, device)
        pairs = zip(fusion.halves(task, device), choices, strict=True)
        halves = [(half, choice.family, choice.knobs) for half, choice in pairs]
    found = []
    for (half, family, own), weight, bias in zip(halves, weights, biases, strict=True):
        found.append(family.pack_weights(half, own, weight))
        if half.bias:
            found.append(family.pack_bias(half, own, bias))
    return found


def shapes(task: Task, device: Device) -> dict[str, tuple[int, ...]]:
    """The arrays that kernels of a task are called with, constants aside, in order; `between` is
    the map that a pair that is not fused has in memory.
    """
    if isinstance(task, PoolTask):
        window = task.window
        images = (window.batch, window.in_channels, window.height, window.width)
        out = task.out.buffer_shape(window.output_shape)
        return {"data": task.data.buffer_shape(images), "out": out}
    first, last = task.convolutions[0], task.convolutions[-1]
    conv, whole = first.conv, numbers.map_shape(last)
    images = (conv.in_images, conv.in_channels, conv.height, conv.width)
    found = {"data": first.data.buffer_shape(images)}
    if last.residual is not None:
        found["residual"] = last.residual.buffer_shape(whole)
    if isinstance(task, PairTask):
        between = fusion.halves(task, device)[0].out
        found["between"] = between.buffer_shape(conv.output_shape)
    return {**found, "out": last.out.buffer_shape(whole)}


def symbol(index: int) -> str:
    """The function that runs kernel number `index`: see `_entry`."""
    return f"run{index}"


def build_library(task: Task, device: Device, candidates: Sequence[Candidate]) -> bytes:
    """A shared library with a function for each candidate, in order.

    Raises:
        BuildError: a kernel can't be compiled, or nothing links for the device here.
    """
    linker = linking.find_linker(device)
    if linker is None:
        raise BuildError(linking.no_linker(device))
    functions = {}
    for index, candidate in enumerate(candidates):
        calls = []
        for number, step in enumerate(steps(task, device, candidate)):
            name = f"kernel{index}_{number}"
            functions[name] = codegen.with_pointer_parameters(step.build(), name)
            calls.append((name, step.operands))
        functions[symbol(index)] = _entry(task, device, symbol(index), calls)
    library = codegen.build(functions, device.tvm_target(device.cores))
    return linking.link(linking.object_code(library), linker, device.arch)


def build_each(
    task: Task, device: Device, candidates: Sequence[Candidate]
) -> list[tuple[bytes, list[int]] | str]:
    """Libraries with the numbers of their candidates; for a candidate that fails, the reason.

    All go into one library if that can be.
    """
    try:
        return [(build_library(task, device, candidates), list(range(len(candidates))))]
    except BuildError as error:
        if len(candidates) == 1:
            return [str(error)]
    found: list[tuple[bytes, list[int]] | str] = []
    for number, candidate in enumerate(candidates):
        for result in build_each(task, device, [candidate]):
            found.append(result if isinstance(result, str) else (result[0], [number]))
    return found


def _entry(
    task: Task, device: Device, name: str, kernels: Sequence[tuple[str, Sequence[str | int]]]
) -> tirx.PrimFunc:
    """`name(arrays…, constants, calls, copies, stride, offsets…)`: `calls` runs of the kernels.

    `constants` holds `copies` times all weights and biases, `stride` bytes apart; those but the
    first begin at `offsets`.
    """
    convolutions = () if isinstance(task, PoolTask) else task.convolutions
    count = sum(1 + half.bias for half in convolutions)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        arrays = {
            k: T.arg(k, tirx.decl_buffer((math.prod(shape),), "float32", name=k))
            for k, shape in shapes(task, device).items()
        }
        length = tirx.Var("length", "int32")
        constants = T.arg("constants", tirx.decl_buffer((length,), "uint8", name="constants"))
        names = ["calls", "copies", "stride", *(f"offset{i}" for i in range(1, count))]
        calls, copies, stride, *offsets = (T.arg(k, tirx.Var(k, "int32")) for k in names)
        with T.serial(calls) as call:
            at = tirx.floormod(call, copies) * stride
            places = [at, *(at + offset for offset in offsets)]
            for kernel, operands in kernels:
                given = [
                    arrays[o].data if isinstance(o, str) else tirx.address_of(constants[places[o]])
                    for o in operands
                ]
                T.evaluate(tirx.call_cpacked(kernel, *given))
    return builder.get()


def constants(device: Device, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Copies of packed constants one behind the other; and their number, the bytes from one to the
    next, and where in each the constants but the first begin. Without constants a blob nobody
    reads.
    """
    if not parts:
        return memory.aligned_bytes(memory.aligned(1), zero=True), [1, 0]
    raw = [np.ascontiguousarray(p, np.float32).reshape(-1).view(np.uint8) for p in parts]
    ends = list(itertools.accumulate(memory.aligned(p.size) for p in raw))
    stride, offsets = ends[-1], [0, *ends[:-1]]
    copies = max(1, min(MOST_COPIES, -(-2 * device.l2_kib * 1024 // max(stride, 1))))
    blob = memory.aligned_bytes(copies * stride, zero=True)
    for copy in range(copies):
        for start, part in zip(offsets, raw, strict=True):
            blob[copy * stride + start : copy * stride + start + part.size] = part
    return blob, [copies, stride, *offsets[1:]]
