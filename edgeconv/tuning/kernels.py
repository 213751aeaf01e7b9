"""Candidates of a task as a shared library, in builder processes.

The kernels are those of a network, called as a network calls them. Before each run of a kernel the
weights are as cold as in a network: a call goes from copy to copy of them, twice the L2 cache long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv import codegen, linking, memory
from edgeconv.errors import BuildError
from edgeconv.targets import Device
from edgeconv.tuning import numbers
from edgeconv.tuning.candidates import Candidate
from edgeconv.workload import ConvTask

MOST_COPIES = 256


def symbol(index: int) -> str:
    """The function that runs kernel number `index`: see `_entry`."""
    return f"run{index}"


def build_library(task: ConvTask, device: Device, candidates: Sequence[Candidate]) -> bytes:
    """A shared library with a function for each candidate, in order.

    Raises:
        BuildError: a kernel can't be compiled, or nothing links for the device here.
    """
    linker = linking.find_linker(device)
    if linker is None:
        raise BuildError(linking.no_linker(device))
    functions = {}
    for index, candidate in enumerate(candidates):
        kernel = candidate.of.build(task, candidate.knobs, device)
        name = f"kernel{index}"
        functions[name] = codegen.with_pointer_parameters(kernel, name)
        functions[symbol(index)] = _entry(task, symbol(index), name)
    library = codegen.build(functions, device.tvm_target(device.cores))
    return linking.link(linking.object_code(library), linker, device.arch)


def build_each(
    task: ConvTask, device: Device, candidates: Sequence[Candidate]
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


def _entry(task: ConvTask, name: str, kernel: str) -> tirx.PrimFunc:
    """`name(data, [residual], out, constants, calls, copies, stride, bias)`: `calls` runs.

    `constants` holds `copies` times weights and bias, `stride` bytes apart, the bias `bias` bytes
    behind the weights.
    """
    conv = task.conv
    shape = (conv.in_images, conv.in_channels, conv.height, conv.width)
    sizes = {"data": task.data.elements(shape)}
    if task.residual is not None:
        sizes["residual"] = task.residual.elements(numbers.map_shape(task))
    sizes["out"] = task.out.elements(numbers.map_shape(task))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        arrays = {k: T.arg(k, tirx.decl_buffer((n,), "float32", name=k)) for k, n in sizes.items()}
        length = tirx.Var("length", "int32")
        constants = T.arg("constants", tirx.decl_buffer((length,), "uint8", name="constants"))
        calls, copies, stride, bias = (
            T.arg(k, tirx.Var(k, "int32")) for k in ("calls", "copies", "stride", "bias")
        )
        with T.serial(calls) as call:
            at = tirx.floormod(call, copies) * stride
            operands: list[Any] = [arrays["data"].data, tirx.address_of(constants[at])]
            if task.bias:
                operands.append(tirx.address_of(constants[at + bias]))
            operands += [arrays[k].data for k in ("residual", "out") if k in arrays]
            T.evaluate(tirx.call_cpacked(kernel, *operands))
    return builder.get()


def constants(
    task: ConvTask, device: Device, candidate: Candidate, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, int, int, int]:
    """(copies of packed weights and bias, their number, stride and offset of the bias in bytes)."""
    parts = [candidate.of.pack_weights(task, candidate.knobs, weight)]
    if task.bias:
        parts.append(candidate.of.pack_bias(task, candidate.knobs, bias))
    raw = [np.ascontiguousarray(p, np.float32).reshape(-1).view(np.uint8) for p in parts]
    offset = memory.aligned(raw[0].size)
    stride = sum(memory.aligned(p.size) for p in raw)
    copies = max(1, min(MOST_COPIES, -(-2 * device.l2_kib * 1024 // max(stride, 1))))
    blob = memory.aligned_bytes(copies * stride, zero=True)
    for copy in range(copies):
        for start, part in zip((0, offset), raw, strict=False):
            blob[copy * stride + start : copy * stride + start + part.size] = part
    return blob, copies, stride, offset
