"""Pointwise and depthwise convolutions in one kernel, against two kernels and other engines.

    python -m edgeconv.benchmarks.fused_pairs -o pairs.json [--kinds pointwise_depthwise]
        [--channels 32,64,128,256,512] [--maps 7,14,28,56,112] [--engines edgeconv,tflite]
        [--seconds 3] [--lock FILE]
    python -m edgeconv.benchmarks.fused_pairs --summary pairs.json

Each pair of the sweep is measured twice. As kernels, on channel blocks with the halo that a
neighbour in a network would want: the fused one with its default knobs and the two that the
strategy chooses, in turns, results compared. As a network of its own with bias and ReLU behind
both, NCHW in and out, on all engines, and if its output fits its input, also four of them in a row,
where every engine keeps the layout it likes; edgeconv fuses there what its cost model says. Fused
kernels are timed also where the cost model would not choose them: the summary has both.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm_ffi

from edgeconv import codegen, fusion, memory, strategy
from edgeconv.benchmarks import options, worker
from edgeconv.benchmarks.harness import MAX_ERROR, Cores, relative_error, time_in_turns
from edgeconv.benchmarks.kernels import loaded, stored
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.peers import PEERS
from edgeconv.benchmarks.random_layers import CHAIN, layer
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.summary import compare, geometric_mean
from edgeconv.benchmarks.tabulate import NOTHING, Table, milliseconds, peak_of, together
from edgeconv.codegen import Operand, Step
from edgeconv.errors import EdgeconvError
from edgeconv.layout import Layout
from edgeconv.targets import Device, host
from edgeconv.workload import Conv2d, ConvTask, PairTask

PROGRAMME = "fused_pairs"
KINDS = ("pointwise_depthwise", "depthwise_pointwise")
CHANNELS = (32, 64, 128, 256, 512)
MAPS = (7, 14, 28, 56, 112)
WINDOWS = ((3, 1), (3, 2), (5, 1), (5, 2))  # kernel, stride
EXPANSIONS = ((16, 96), (24, 144), (32, 192), (64, 384))  # of MobileNetV2
MOST_ELEMENTS = 128 * 112 * 112  # of the map between
RELU = ("relu", ())
MODES = {"engines": "alone, NCHW in and out", "chain": f"{CHAIN} in a row"}  # by key of a case


def sweep(
    kinds: Sequence[str], channels: Sequence[int], maps: Sequence[int]
) -> Iterator[tuple[str, Conv2d, Conv2d]]:
    """Pairs of equal channels, and those of inverted residuals; all windows."""
    widths = [(c, c) for c in channels]
    widths += [e for e in EXPANSIONS if min(channels) <= e[1] <= max(channels)]
    for kind in kinds:
        for size in maps:
            for narrow, wide in widths:
                for kernel, stride in WINDOWS:
                    if wide * size * size <= MOST_ELEMENTS:
                        yield kind, *pair(kind, narrow, wide, size, kernel, stride)


def pair(
    kind: str, narrow: int, wide: int, size: int, kernel: int, stride: int
) -> tuple[Conv2d, Conv2d]:
    """Same-padding; the depthwise convolution is the wide one."""
    p = kernel // 2
    window = ((kernel, kernel), (stride, stride), (p, p, p, p), (1, 1), wide)
    filters = Conv2d(1, wide, size, size, wide, *window)
    if kind == "pointwise_depthwise":
        return Conv2d(1, narrow, size, size, wide, (1, 1)), filters
    out = (filters.out_height, filters.out_width)
    return filters, Conv2d(1, wide, *out, narrow, (1, 1))


def task_of(one: Conv2d, other: Conv2d, device: Device) -> PairTask:
    """In a network: channel blocks, a halo behind for the next depthwise convolution."""
    data, out = Layout(device.lanes, one.padding), Layout(device.lanes, (1, 1, 1, 1))
    return PairTask(
        ConvTask(one, data, Layout(1), True, None, RELU),
        ConvTask(other, Layout(1), out, True, None, RELU),
    )


class Kernels:
    """The fused kernel of a pair, and the two it replaces, in one program on one set of arrays."""

    def __init__(self, task: PairTask, device: Device, seed: int = 0) -> None:
        self.task, self.device = task, dataclasses.replace(device, cores=1)
        self.choice = fusion.choose(task, self.device)
        self._rng = np.random.default_rng(seed)
        self._convs = [task.first.conv, task.second.conv]
        self._weights = [
            self._draw(c.out_channels, c.in_channels_per_group, *c.kernel_size) for c in self._convs
        ]
        self._biases = [self._draw(c.out_channels) for c in self._convs]
        one = self._convs[0]
        data = self._draw(one.batch, one.in_channels, one.height, one.width)
        between = Layout(task.second.out.block, self._convs[1].padding)
        self._halves = [
            dataclasses.replace(task.first, out=between),
            dataclasses.replace(task.second, data=between),
        ]
        maps = [
            stored(data, task.first.data),
            stored(np.zeros(one.output_shape, np.float32), between),
            stored(np.zeros(self._convs[1].output_shape, np.float32), task.second.out),
        ]
        self._constants: list[np.ndarray] = []
        offsets = np.cumsum([0, *(memory.aligned(m.nbytes) for m in maps)])
        self._data, self._between, self._out = (
            Operand("workspace", 0, int(offset)) for offset in offsets[:-1]
        )
        self._workspace = memory.aligned_bytes(int(offsets[-1]), zero=True)
        for array, offset in zip(maps, offsets, strict=False):
            self._workspace[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def _draw(self, *shape: int) -> np.ndarray:
        return self._rng.standard_normal(shape, np.float32)

    @property
    def output(self) -> np.ndarray:
        """A copy of what the last call wrote, NCHW."""
        shape, layout = self._convs[1].output_shape, self.task.second.out
        size = 4 * layout.elements(shape)
        raw = self._workspace[self._out.offset : self._out.offset + size]
        return loaded(raw.view(np.float32).reshape(layout.buffer_shape(shape)), layout, shape)

    def calls(self) -> dict[str, Callable[[], None]]:
        """The fused kernel, and two in a row, each one native call.

        Raises:
            BuildError: TVM or LLVM refused a kernel.
        """
        family, knobs = self.choice.family, self.choice.knobs
        functions = {"fused": family.build(self.task, knobs, self.device)}
        packed = family.pack(self.task, knobs, self._weights, self._biases)
        steps = [Step("fused", (self._data, *map(self._constant, packed), self._out), "fused")]
        ends = ((self._data, self._between), (self._between, self._out))
        for i, (half, (data, out)) in enumerate(zip(self._halves, ends, strict=True)):
            choice, name = strategy.choose(half, self.device), f"half{i}"
            functions[name] = choice.family.build(half, choice.knobs, self.device)
            packed = [
                choice.family.pack_weights(half, choice.knobs, self._weights[i]),
                choice.family.pack_bias(half, choice.knobs, self._biases[i]),
            ]
            steps.append(Step(name, (data, *map(self._constant, packed), out), name))
        bare = {n: codegen.with_pointer_parameters(f, n) for n, f in functions.items()}
        constants = np.concatenate(self._constants)
        sizes = (constants.size, self._workspace.size)
        main = codegen.main_function([], [], *sizes, steps)
        run = codegen.build({**bare, "main": main}, self.device.tvm_target(1))["main"]
        blob = memory.aligned_bytes(constants.size)
        blob[:] = constants
        arguments = [tvm_ffi.from_dlpack(a) for a in (blob, self._workspace)]
        return {
            "fused": lambda: run(*arguments, 0, 1),
            "apart": lambda: run(*arguments, 1, 3),
        }

    def _constant(self, array: np.ndarray) -> Operand:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        offset = sum(part.size for part in self._constants)
        self._constants.append(np.pad(raw, (0, memory.aligned(raw.size) - raw.size)))
        return Operand("constants", 0, offset)


def kernels(task: PairTask, device: Device, seconds: float, cores: Cores) -> dict[str, Any]:
    """Median milliseconds of the fused kernel and of two.

    Raises:
        EdgeconvError: they differ in what they compute.
    """
    bench = Kernels(task, device)
    calls = bench.calls()
    results = []
    for call in calls.values():
        call()
        results.append(bench.output)
    error = relative_error([results[0]], [results[1]])
    if not error <= MAX_ERROR:
        raise EdgeconvError(f"{task.first.conv}, {task.second.conv}: relative error {error:.1e}")
    with cores.for_measuring():
        timed = time_in_turns(calls, seconds)
    medians = {
        f"{name}_ms": float(f"{np.median(samples or disturbed):.5g}")
        for name, (samples, disturbed) in timed.items()
    }
    choice = bench.choice
    return {
        **medians,
        "chosen": bool(choice.saved),
        "predicted": float(f"{choice.apart / choice.cycles:.4g}"),
        "knobs": f"{choice.family.name} {choice.knobs_text}",
    }


def network(one: Conv2d, other: Conv2d, length: int = 1) -> onnx.ModelProto:
    """The pair, once or in a chain, each with weights of its own."""
    b = Builder("pair", (one.batch, one.in_channels, one.height, one.width))
    x = "input"
    for _ in range(length):
        x = b.relu(layer(b, b.relu(layer(b, x, one)), other))
    return b.model(x)


def engines_on(
    one: Conv2d, other: Conv2d, engines: Sequence[str], chosen: argparse.Namespace
) -> dict[str, Any]:
    """What each engine takes for the pair alone ("engines") and, if it fits, for a chain."""
    models = {"engines": network(one, other)}
    if other.output_shape == (one.batch, one.in_channels, one.height, one.width):
        models["chain"] = network(one, other, CHAIN)
    pace = dict(seconds=chosen.seconds, limit=chosen.limit, lock=chosen.lock)
    return worker.run(models, engines, threads=1, **pace)


def tables(content: Mapping[str, Any]) -> list[Table]:
    """Fused against two kernels, by kind and choice, with the most that fusion could gain: the two
    kernels' time over the multiply-adds' at the core's peak. Then edgeconv against other engines.
    """
    cases = list(content["cases"].values())
    titles = ["kind", "cost model", "pairs", "two kernels / fused, geometric mean", "least", "most"]
    kernels = Table([*titles, "two kernels / multiply-adds at the peak"], [])
    for kind in KINDS:
        for chosen in (True, False):
            own = [c for c in cases if c["kind"] == kind and c["kernels"]["chosen"] is chosen]
            if own:
                ratios = [_against_two(c) for c in own]
                numbers = (geometric_mean(ratios), min(ratios), max(ratios))
                row = [kind, "fuses" if chosen else "leaves apart", str(len(ratios))]
                bounds = [(c, b) for c in own if (b := _at_peak(content, c)) is not None]
                gains = [c["kernels"]["apart_ms"] / b for c, b in bounds]
                most = f"{geometric_mean(gains):.3f}" if gains else NOTHING
                kernels.rows.append([*row, *(f"{n:.3f}" for n in numbers), most])
    titles = ["kind", "as", "pairs", "fastest other engine / edgeconv, geometric mean", "least"]
    titles += ["pair", "fastest other engine / multiply-adds at the peak"]
    engines = Table(titles, [])
    for kind in KINDS:
        for mode, text in MODES.items():
            own = [c for c in cases if c["kind"] == kind and mode in c]
            found = [r for c in own if (r := compare(c["pair"], c[mode])) is not None]
            if found:
                least = min(found, key=lambda r: r.ratio)
                row = [kind, text, str(len(found)), f"{geometric_mean(r.ratio for r in found):.2f}"]
                row += [f"{least.ratio:.2f}", f"{least.case} ({PEERS[least.peer].title})"]
                engines.rows.append([*row, _ceiling(content, own, mode)])
    return [kernels, engines] if engines.rows else [kernels]


def _ceiling(content: Mapping[str, Any], cases: Sequence[Case], mode: str) -> str:
    """The fastest other engine's time over that of the multiply-adds at the peak."""
    found = []
    for case in cases:
        bound = _at_peak(content, case)
        ratio = compare(case["pair"], case[mode])
        if bound is not None and ratio is not None:
            bound *= CHAIN if mode == "chain" else 1
            found.append(ratio.ratio * case[mode]["edgeconv"]["median_ms"] / bound)
    return f"{geometric_mean(found):.2f}" if found else NOTHING


def _at_peak(content: Mapping[str, Any], case: Case) -> float | None:
    """Milliseconds that a pair's multiply-adds take at the core's peak."""
    peak = peak_of(content, case)
    if peak is None:
        return None
    macs = sum(Conv2d.parse(text).macs for text in case["pair"].split(" then "))
    return 2 * macs / peak / 1e6


def every(content: Mapping[str, Any]) -> Table:
    """One row a pair."""
    titles = ["pair", "cost model", "predicted", "two kernels / fused", "two kernels ms"]
    titles += ["fused ms", "knobs", "fastest other engine / edgeconv", f"{CHAIN} in a row"]
    rows = []
    for key, case in content["cases"].items():
        k = case["kernels"]
        row = [key, "fuses" if k["chosen"] else "leaves apart", f"{k['predicted']:.3f}"]
        row += [f"{_against_two(case):.3f}"]
        row += [milliseconds(k["apart_ms"]), milliseconds(k["fused_ms"]), k["knobs"]]
        found = [compare(key, case.get(mode, {})) for mode in MODES]
        rows.append([*row, *(NOTHING if f is None else f"{f.ratio:.2f}" for f in found)])
    return Table(titles, rows)


def dots(content: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """(pair, two kernels / fused) by kind and choice."""
    found: dict[str, list[tuple[str, float]]] = {}
    for case in content["cases"].values():
        verdict = "fuses" if case["kernels"]["chosen"] else "leaves apart"
        title = case["kind"].replace("_", ", ")
        found.setdefault(f"{title}: {verdict}", []).append((case["pair"], _against_two(case)))
    return found


def _against_two(case: Case) -> float:
    return float(case["kernels"]["apart_ms"] / case["kernels"]["fused_ms"])


def summary(content: Mapping[str, Any]) -> str:
    """Markdown of `tables`."""
    return together(tables(content))


def line(case: Case) -> str:
    """One case for people who watch."""
    k = case["kernels"]
    text = (
        f"{case['kind']} {case['pair']}: {k['apart_ms'] / k['fused_ms']:.3f} (predicted "
        f"{k['predicted']:.3f}{', chosen' if k['chosen'] else ''}) {k['fused_ms']} ms  {k['knobs']}"
    )
    for mode in MODES:
        found = compare(case["pair"], case.get(mode, {}))
        text += f"\n  {MODES[mode]}: {found.peer} / edgeconv {found.ratio:.2f}" if found else ""
    return text


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", type=options.names, default=list(KINDS))
    parser.add_argument("--channels", type=options.numbers, default=list(CHANNELS))
    parser.add_argument("--maps", type=options.numbers, default=list(MAPS))
    parser.add_argument("--kernels-only", action="store_true", help="no other engines")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    options.add(parser, seconds=2.0)
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    if not set(chosen.kinds) <= set(KINDS):
        parser.error(f"the kinds are {', '.join(KINDS)}")
    engines = [] if chosen.kernels_only else options.engines(parser, chosen)
    records = Records(chosen.output, PROGRAMME, {"seconds": chosen.seconds, "engines": engines})
    device, cores = host(), Cores(1, chosen.lock)
    for kind, one, other in sweep(chosen.kinds, chosen.channels, chosen.maps):
        key = f"{kind}: {one} then {other}"
        if key in records:
            continue
        case: Case = {"kind": kind, "pair": f"{one} then {other}"}
        case["kernels"] = kernels(task_of(one, other, device), device, chosen.seconds, cores)
        if engines:
            case |= engines_on(one, other, engines, chosen)
        records.add(key, case)
        print(line(case), flush=True)
    print(summary(records.content))


if __name__ == "__main__":
    main()
