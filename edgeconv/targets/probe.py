"""What one core of this machine really reaches: a loop of nothing but independent multiply-adds."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from edgeconv.targets.device import Device

_ITERATIONS = 20000
_CHAINS = 12  # covers four cycles of latency on up to three ports


def flops(device: Device) -> int:
    """Operations of one call of the probe."""
    return 2 * _ITERATIONS * _CHAINS * device.lanes


def buffer_values(device: Device) -> np.ndarray:
    """What the probe computes on: factor, summand, and a vector a chain."""
    values = np.ones((2 + _CHAINS, device.lanes), np.float32)
    values[0] = 0.999
    return values


def build(device: Device) -> Any:
    """A module with the function `probe(buffer)`, for any device."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("data", tirx.decl_buffer((2 + _CHAINS, device.lanes), "float32", name="data"))
        with T.sblock("probe"):
            acc = T.sblock_alloc_buffer((_CHAINS, device.lanes), "float32", scope="local")
            with T.unroll(_CHAINS) as i, T.vectorized(device.lanes) as lane:
                T.buffer_store(acc, data[2 + i, lane], [i, lane])
            with T.serial(_ITERATIONS), T.unroll(_CHAINS) as i, T.vectorized(device.lanes) as lane:
                T.buffer_store(acc, acc[i, lane] * data[0, lane] + data[1, lane], [i, lane])
            with T.unroll(_CHAINS) as i, T.vectorized(device.lanes) as lane:
                T.buffer_store(data, acc[i, lane], [2 + i, lane])
    func = Schedule(builder.get()).mod["main"]
    return tvm.tirx.build(func.with_attr("global_symbol", "probe"), target=device.tvm_target(1))


@functools.lru_cache(maxsize=8)
def peak_gflops(device: Device) -> float:
    """Measured float32 peak of one core in GFLOP/s (a multiply-add counts two); for the host only.

    Some 20 ms of measuring. The best of ten runs: anything less was disturbed.
    """
    module, values = build(device), buffer_values(device)
    raw = np.zeros(values.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    buffer = raw[start : start + values.nbytes].view(np.float32).reshape(values.shape)
    buffer[...] = values
    tensor, run = tvm_ffi.from_dlpack(buffer), module["probe"]
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        run(tensor)
        best = min(best, time.perf_counter() - begin)
    return flops(device) / best / 1e9
