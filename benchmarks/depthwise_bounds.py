"""How near depthwise convolutions come to what the caches and the multipliers permit.

    python -m edgeconv.benchmarks.depthwise_bounds -o bounds.json [-n 30] [--seed 0] [--lock FILE]
    python -m edgeconv.benchmarks.depthwise_bounds --summary bounds.json

The model: a layer reads its input once and writes its output once, and makes the multiply-adds of
the taps that meet the image. It takes at least as long as the longer of

    copy: (input bytes + output bytes) / 2 copied from one buffer to another, over and over, so that
          they lie in the same level of cache as the layer's maps; the faster of NumPy's copy and
          a loop of whole vectors
    multiply-adds: at the peak that the probe of `edgeconv doctor` reaches

Both are measured in turns with the kernel, on one core: default knobs, layouts as within a network.
Share = bound / time. Above 1 the copy was no bound: write-allocation and reuse differ a little.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv import codegen, strategy
from edgeconv.benchmarks import random_layers
from edgeconv.benchmarks.default_study import BLOCK_S, block_times
from edgeconv.benchmarks.harness import Cores
from edgeconv.benchmarks.kernels import Bench, Setting, task_within_network
from edgeconv.benchmarks.random_layers import CLASSES
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.tabulate import Table, milliseconds, together
from edgeconv.borders import meets
from edgeconv.runtime.buffers import aligned
from edgeconv.schedules import emit
from edgeconv.schedules.common import ceil_div
from edgeconv.schedules.traffic import moved_bytes
from edgeconv.targets import Device, host
from edgeconv.targets.probe import flops, multiply_add_loop
from edgeconv.workload import Conv2d

PROGRAMME = "depthwise_bounds"
ROUNDS = 21
WANTED = 0.7  # share of the bound


def multiply_adds(conv: Conv2d) -> int:
    """Those of a depthwise convolution's taps that meet the image."""
    taps = 1
    for axis, outputs in enumerate((conv.out_height, conv.out_width)):
        kernel = range(conv.kernel_size[axis])
        taps *= sum(all(meets(conv, axis, 1, o, tap)) for o in range(outputs) for tap in kernel)
    return conv.batch * conv.out_channels * conv.in_channels_per_group * taps


def copies(source: np.ndarray, target: np.ndarray, device: Device) -> dict[str, Callable[[], None]]:
    """Calls that copy an array of whole vectors to another, by name."""
    native = vector_copy(source.size // device.lanes, device)["copy"]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (source, target)]
    return {
        "vectors": lambda: native(*pointers),
        "NumPy": lambda: np.copyto(target, source),
    }


def vector_copy(vectors: int, device: Device) -> Any:
    """A module with `copy(source, target)`, a vector at a time, for numbers of at least -1: LLVM
    would make a plain loop a call of the C library's memcpy.
    """
    lanes = device.lanes

    def body() -> None:
        source, target = (emit.buffer(n, (vectors * lanes,)) for n in ("source", "target"))
        with emit.loops(i=vectors) as i, emit.block("copy"):
            at = [tirx.Ramp(emit.spatial("vi", vectors, i) * lanes, 1, lanes)]
            least = tirx.Broadcast(tirx.const(-1.0, "float32"), lanes)
            emit.store(target, tirx.max(source[tuple(at)], least), at)

    func = Schedule(emit.prim_func("copy", body)).mod["main"]
    kernel = codegen.with_pointer_parameters(func, "copy")
    return codegen.build({"copy": kernel}, device.tvm_target(1))


def measure(conv: Conv2d, device: Device, cores: Cores) -> Case:
    """One layer: milliseconds of its kernel and of both bounds."""
    task, size = task_within_network(conv, device), conv.batch * moved_bytes(conv)
    choice = strategy.choose(task, device)
    bench, loop = Bench(task, device), multiply_add_loop(device)
    (kernel,) = bench.compile([Setting(choice.family, choice.knobs)])
    half = ceil_div(size, 8 * device.lanes) * device.lanes  # floats
    source, target = (aligned((half,), "float32", zero=True) for _ in range(2))
    calls = [kernel, *copies(source, target, device).values(), loop]
    samples: list[list[float]] = [[] for _ in calls]
    with cores.for_measuring():
        for number in range(ROUNDS):
            turn = number % len(calls)
            for i in [*range(turn, len(calls)), *range(turn)]:
                samples[i].append(block_times(calls[i], 4 * BLOCK_S))
    own, *copied, probe = (float(np.median(found)) for found in samples)
    return {
        "chosen": str(Setting(choice.family, choice.knobs)),
        "ms": float(f"{own:.5g}"),
        "copy_ms": float(f"{min(copied):.5g}"),
        "multiply_add_ms": float(f"{2 * multiply_adds(conv) * probe / flops(device):.5g}"),
        "bytes": size,
    }


def share(case: Case) -> float:
    """Bound / time."""
    return float(max(case["copy_ms"], case["multiply_add_ms"]) / case["ms"])


def is_copy(case: Case) -> bool:
    """Whether the copy is the higher bound."""
    return bool(case["copy_ms"] >= case["multiply_add_ms"])


def tables(content: Mapping[str, Any]) -> list[Table]:
    """Shares by what bounds a layer."""
    titles = ["bound by", "layers", "share of the bound, median", "10th percentile", "least"]
    titles += [f"layers below {WANTED}"]
    cases = list(content["cases"].values())
    rows = []
    for name, kind in (("a copy", True), ("multiply-adds", False)):
        found = [share(c) for c in cases if is_copy(c) == kind]
        if found:
            numbers = (float(np.median(found)), float(np.percentile(found, 10)), min(found))
            below = sum(s < WANTED for s in found)
            row = [name, str(len(found)), *(f"{n:.2f}" for n in numbers), str(below)]
            rows.append(row)
    return [Table(titles, rows)]


def every(content: Mapping[str, Any]) -> Table:
    """One row a layer."""
    titles = ["layer", "ms", "copy ms", "multiply-adds ms", "share", "KiB moved", "knobs"]
    rows = []
    for key, case in content["cases"].items():
        times = [milliseconds(case[n]) for n in ("ms", "copy_ms", "multiply_add_ms")]
        moved = f"{case['bytes'] / 1024:.0f}"
        rows.append([key, *times, f"{share(case):.2f}", moved, case["chosen"]])
    return Table(titles, rows)


def dots(content: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """(layer, share of the bound) by what bounds it."""
    found: dict[str, list[tuple[str, float]]] = {}
    for key, case in content["cases"].items():
        name = "bound by a copy" if is_copy(case) else "bound by multiply-adds"
        found.setdefault(name, []).append((key, share(case)))
    return found


def summary(content: Mapping[str, Any]) -> str:
    """Markdown of `tables`, then every layer."""
    return together([*tables(content), every(content)])


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file, continued if it exists")
    parser.add_argument("-n", "--count", type=int, default=30, help="layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lock", type=Path, help="file to hold locked while measuring")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    device, cores = dataclasses.replace(host(), cores=1), Cores(1, chosen.lock)
    records = Records(chosen.output, PROGRAMME, {"seed": chosen.seed})
    (depthwise,) = (c for c in CLASSES if c.name == "depthwise")
    for conv in random_layers.draw(depthwise, chosen.count, chosen.seed):
        key = str(conv)
        if key not in records:
            case = measure(conv, device, cores)
            records.add(key, case)
            print(f"{key}: {share(case):.2f} of the bound", flush=True)
    print(summary(records.content))


if __name__ == "__main__":
    main()
