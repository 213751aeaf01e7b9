"""DDC layers, parallel depthwise branches summed or concatenated, on all engines.

    python -m edgeconv.benchmarks.ddc_layers -o ddc.json [--sizes 128x28,64x56]
        [--engines edgeconv,tflite] [--seconds 3] [--lock FILE]
    python -m edgeconv.benchmarks.ddc_layers --summary ddc.json

Each layer has three branches: 3×3 of dilation 1, 2 and 3, or 3×3, 5×5 and 7×7; their sum without
(linear) and with ReLU behind each branch, or all with ReLU concatenated. It is measured alone (NCHW
in and out) and between two 1×1 convolutions, as networks have it; there the two 1×1 count too.
Memory: the workspace of edgeconv's program, with the branches in one pass and with a layer each,
and where the system tells it the peak of a process over one that runs next to nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import edgeconv
from edgeconv.benchmarks import options, peak_memory, worker
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.peers import PEERS
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.summary import Comparison, compare, faults, geometric_mean
from edgeconv.benchmarks.tabulate import NOTHING, Table, milliseconds, together
from edgeconv.graph import pipeline

PROGRAMME = "ddc_layers"
SIZES = ("32x112", "64x56", "128x28", "256x14", "512x7", "120x40")  # channels x map
MIXES = {"d123": ((3, 1), (3, 2), (3, 3)), "k357": ((3, 1), (5, 1), (7, 1))}  # kernel, dilation
MODES = ("alone", "between")
FUSING = ("merge_depthwise_sum", "depthwise_branches")  # passes left out for the comparison


@dataclass(frozen=True)
class Layer:
    """One DDC layer."""

    channels: int
    size: int
    mix: str
    combine: str  # "sum", "sum_relu" or "concat_relu"

    @property
    def key(self) -> str:
        """Name of the case."""
        return f"{self.channels}x{self.size}x{self.size} {self.mix} {self.combine}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates as exported: every tap of every branch."""
        return self.channels * self.size**2 * sum(k * k for k, _ in MIXES[self.mix])

    def append(self, b: Builder, x: str) -> tuple[str, int]:
        """The layer's output in a model under construction, and its channels."""
        c, found = self.channels, []
        for kernel, dilation in MIXES[self.mix]:
            y = b.conv(x, c, c, (kernel, kernel), dilation=(dilation, dilation), groups=c)
            found.append(y if self.combine == "sum" else b.relu(y))
        if self.combine == "concat_relu":
            return b.node("Concat", found, axis=1), c * len(found)
        total, *others = found
        for y in others:
            total = b.node("Add", [total, y])
        return total, c

    def model(self, mode: str) -> onnx.ModelProto:
        """The layer alone, or between two 1×1 convolutions."""
        b = Builder("ddc", (1, self.channels, self.size, self.size))
        if mode == "alone":
            return b.model(self.append(b, "input")[0])
        x = b.relu(b.conv("input", self.channels, self.channels, (1, 1)))
        y, channels = self.append(b, x)
        return b.model(b.conv(y, channels, self.channels, (1, 1)))


def layers(sizes: Sequence[str]) -> Iterator[Layer]:
    """All layers of some sizes."""
    for size in sizes:
        channels, extent = map(int, size.split("x"))
        for mix in MIXES:
            for combine in ("sum", "sum_relu", "concat_relu"):
                yield Layer(channels, extent, mix, combine)


@contextmanager
def unfused() -> Iterator[None]:
    """Compile without the passes that put branches together."""
    passes = pipeline.PASSES
    kept: tuple[tuple[str, Callable[..., int]], ...] = tuple(
        (title, run) for title, run in passes if run.__name__ not in FUSING
    )
    pipeline.PASSES = kept
    try:
        yield
    finally:
        pipeline.PASSES = passes


def memory(model: onnx.ModelProto) -> dict[str, Any]:
    """Workspace bytes and peak MiB, in one pass and in a layer a branch."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fused", "unfused"):
            path = Path(folder, f"{name}.edgeconv")
            if name == "fused":
                built = edgeconv.compile(model, "host", threads=1)
            else:
                with unfused():
                    built = edgeconv.compile(model, "host", threads=1)
            built.save(path)
            found[name] = {
                "workspace_bytes": built.manifest.workspace_bytes,
                "peak_mib": min(peak_memory.peak_mib("edgeconv", path, 1) for _ in range(3)),
            }
    return found


def measure(
    layer: Layer, engines: Sequence[str], *, seconds: float, limit: float, lock: Path | None
) -> dict[str, Any]:
    """One layer, by mode and engine."""
    models = {mode: layer.model(mode) for mode in MODES}
    return worker.run(models, engines, threads=1, seconds=seconds, limit=limit, lock=lock)


def tables(content: Mapping[str, Any]) -> list[Table]:
    """Geometric means and least ratios by mode and combination."""
    titles = ["layers", "cases", "fastest other / edgeconv, geometric mean", "least"]
    rows = []
    for name, found in dots(content).items():
        ratios = [ratio for _, ratio in found]
        numbers = (geometric_mean(ratios), min(ratios))
        rows.append([name, str(len(ratios)), *(f"{n:.2f}" for n in numbers)])
    return [Table(titles, rows)]


def every(content: Mapping[str, Any]) -> Table:
    """One row for each layer and mode; the workspace is that of the model with 1×1 around it."""
    titles = ["layer", "edgeconv ms", "fastest other ms", "engine", "fastest other / edgeconv"]
    titles += ["workspace KiB, one pass", "a layer a branch"]
    rows = []
    for key, mode, found in _compared(content):
        kept = content["cases"][key]["memory"]
        sizes = [f"{kept[n]['workspace_bytes'] / 1024:.0f}" for n in ("fused", "unfused")]
        times = [milliseconds(found.own_ms), milliseconds(found.peer_ms)]
        times += [PEERS[found.peer].title, f"{found.ratio:.2f}"]
        rows.append([f"{key}, {mode}", *times, *(sizes if mode == "between" else [NOTHING] * 2)])
    return Table(titles, rows)


def dots(content: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """(layer, fastest other / edgeconv) by mode and combination."""
    found: dict[str, list[tuple[str, float]]] = {}
    for key, mode, compared in _compared(content):
        found.setdefault(f"{key.split()[-1]}, {mode}", []).append((key, compared.ratio))
    return found


def _compared(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Comparison]]:
    for key, case in content["cases"].items():
        for mode, measured in case["measurements"].items():
            found = compare(key, measured)
            if found is not None:
                yield key, mode, found


def summary(content: Mapping[str, Any]) -> str:
    """Markdown: by mode and combination, then every layer, then what failed."""
    broken = faults({key: case["measurements"] for key, case in content["cases"].items()})
    return together([*tables(content), every(content)]) + (f"\n{broken}" if broken else "")


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=options.names, default=list(SIZES))
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    options.add(parser, seconds=3.0)
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    engines = options.engines(parser, chosen)
    records = Records(
        chosen.output, PROGRAMME, {"seconds": chosen.seconds, "engines": engines, "threads": 1}
    )
    for layer in layers(chosen.sizes):
        if layer.key in records:
            continue
        measured = measure(
            layer, engines, seconds=chosen.seconds, limit=chosen.limit, lock=chosen.lock
        )
        case: Case = {"macs": layer.macs, "memory": memory(layer.model("between"))}
        records.add(layer.key, {**case, "measurements": measured})
        for mode in MODES:
            found = compare(layer.key, measured[mode])
            times = " ".join(
                f"{name}={e.get('median_ms', 'failed')}" for name, e in measured[mode].items()
            )
            ratio = found.ratio if found else float("nan")
            print(f"{layer.key} {mode} r={ratio:.2f} {times}", flush=True)
    print(summary(records.content))


if __name__ == "__main__":
    main()
