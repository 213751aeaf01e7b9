"""Sliding-channel convolutions and ragged groups on all engines, and beside the dense convolution.

    python -m edgeconv.benchmarks.channel_windows -o windows.json
        [--engines edgeconv,onnxruntime,tflite] [--channels 64,128] [--maps 14,28] [--seconds 2]
    python -m edgeconv.benchmarks.channel_windows --summary windows.json

A sliding-channel convolution (Wang et al., "DSXplore", IPDPS 2021) gives each filter a window of
C/cg channels, a share of which (the overlap) it has in common with the next. It is measured as
exporters write it: slices, concatenated, a grouped 1x1, and a channel shuffle. Where steps between
windows are whole numbers, filters with the same window are a group; else each filter is.

Ragged groups (self-grouping networks, Guo et al.) are a dense convolution whose filters are zero
outside of their cluster's input channels.

Each case has two models, "structured" and "dense": the dense convolution of the same shape.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeconv.benchmarks import options, worker
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.peers import OWN, PEERS
from edgeconv.benchmarks.records import Case, Records, read
from edgeconv.benchmarks.summary import Comparison, compare, faults, geometric_mean
from edgeconv.benchmarks.tabulate import NOTHING, Table, milliseconds, together

PROGRAMME = "channel_windows"
WINDOWS = (2, 4, 8)  # cg: how many windows make up all channels
OVERLAPS = (0.25, 0.33, 0.5, 0.75)
CHANNELS = (64, 128, 256, 512)
MAPS = (7, 14, 28, 56)
MOST_ELEMENTS = 128 * 56 * 56  # of an activation


@dataclass(frozen=True)
class Sliding:
    """A sliding-channel convolution of `channels` to as many."""

    channels: int
    size: int
    cg: int
    overlap: float

    def __str__(self) -> str:
        return f"sliding {self.channels}x{self.size}x{self.size} cg{self.cg} co{self.overlap:g}"

    @property
    def starts(self) -> list[int]:
        """The first channel of each filter's window."""
        step = (1 - self.overlap) * (self.channels // self.cg)
        return [math.floor(k * step) % self.channels for k in range(self.channels)]

    def structured(self) -> onnx.ModelProto:
        """Slices, their concatenation, a grouped 1×1, and where filters share windows a shuffle."""
        c, width = self.channels, self.channels // self.cg
        period = next(p for p in range(1, c + 1) if c % p == 0 and self._repeats(p))
        b = _builder(c, self.size)
        wide = _concat(b, [_window(b, first, width, c) for first in self.starts[:period]])
        y = b.conv(wide, period * width, c, (1, 1), groups=period)
        return b.model(_interleaved(b, y, c, period, self.size) if period < c else y)

    def dense(self) -> onnx.ModelProto:
        """All filters read all channels."""
        b = _builder(self.channels, self.size)
        return b.model(b.conv("input", self.channels, self.channels, (1, 1)))

    def _repeats(self, period: int) -> bool:
        first = self.starts
        return all(start == first[k % period] for k, start in enumerate(first))


@dataclass(frozen=True)
class Ragged:
    """A convolution whose filters fall into `clusters` of unequal size, with unequal inputs."""

    channels: int
    size: int
    clusters: int
    kernel: int

    def __str__(self) -> str:
        return (
            f"ragged {self.channels}x{self.size}x{self.size} k{self.kernel} "
            f"{self.clusters} clusters"
        )

    def structured(self) -> onnx.ModelProto:
        """With zeros: every channel is in one cluster, drawn at random, no cluster is empty."""
        rng = np.random.default_rng([self.channels, self.clusters])
        shares = rng.uniform(0.5, 2, self.clusters)
        draws = [rng.choice(self.clusters, self.channels, p=shares / shares.sum()) for _ in "io"]
        ins, outs = (
            np.where(np.arange(len(d)) < self.clusters, np.arange(len(d)), d) for d in draws
        )
        return self._model(outs[:, None] == ins)

    def dense(self) -> onnx.ModelProto:
        """Without zeros."""
        return self._model(np.ones((self.channels, self.channels), bool))

    def _model(self, mask: np.ndarray) -> onnx.ModelProto:
        b = _builder(self.channels, self.size)
        weight = (
            b.rng.standard_normal((*mask.shape, self.kernel, self.kernel)) * mask[..., None, None]
        )
        pads = [self.kernel // 2] * 4
        operands = ["input", b.constant(weight / math.sqrt(mask[0].sum() * self.kernel**2))]
        return b.model(b.node("Conv", operands, kernel_shape=[self.kernel] * 2, pads=pads))


Layer = Sliding | Ragged


def _builder(channels: int, size: int) -> Builder:
    return Builder("layer", (1, channels, size, size))


def _window(b: Builder, first: int, width: int, channels: int) -> str:
    """`width` channels of the input from `first` on, round to the first ones."""
    ends = [(first, min(first + width, channels))]
    if first + width > channels:
        ends.append((0, first + width - channels))
    parts = []
    for end in ends:
        limits = [b.constant(np.array([v], np.int64)) for v in (*end, 1)]
        parts.append(b.node("Slice", ["input", *limits]))
    return _concat(b, parts)


def _concat(b: Builder, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else b.node("Concat", parts, axis=1)


def _interleaved(b: Builder, x: str, channels: int, groups: int, size: int) -> str:
    """Channel i of group g becomes channel i·groups + g."""
    split = b.constant(np.array([1, groups, channels // groups, size, size], np.int64))
    whole = b.constant(np.array([1, channels, size, size], np.int64))
    turned = b.node("Transpose", [b.node("Reshape", [x, split])], perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [turned, whole])


def layers(channels: Sequence[int], maps: Sequence[int]) -> Iterator[Layer]:
    """All cases of these sizes."""
    for c, size in product(channels, maps):
        if c * size * size > MOST_ELEMENTS:
            continue
        yield from (Sliding(c, size, cg, co) for cg, co in product(WINDOWS, OVERLAPS))
        yield from (Ragged(c, size, n, kernel) for n, kernel in product((3, 6), (1, 3)))


def measure(layer: Layer, engines: Sequence[str], chosen: argparse.Namespace) -> dict[str, Any]:
    """Both models on all engines."""
    models = {"structured": layer.structured(), "dense": layer.dense()}
    pace = dict(seconds=chosen.seconds, limit=chosen.limit, lock=chosen.lock)
    return worker.run(models, engines, threads=1, **pace)


def gain(measured: Mapping[str, Any]) -> float | None:
    """How many times faster edgeconv is on the structured convolution than on the dense one; None
    where it failed on one of them.
    """
    dense, structured = (
        measured[name].get(OWN, {}).get("median_ms") for name in ("dense", "structured")
    )
    return float(dense / structured) if dense and structured else None


def tables(content: Mapping[str, Any]) -> list[Table]:
    """Geometric means and worst cases by kind; the ideal gain is that of the products."""
    titles = ["kind", "cases", "fastest other / edgeconv, geometric mean", "least"]
    titles += ["gain over dense / ideal gain, geometric mean", "least"]
    rows = []
    for kind in dict.fromkeys(c["kind"] for c in content["cases"].values()):
        cases = {k: c for k, c in content["cases"].items() if c["kind"] == kind}
        ratios = [r.ratio for k, c in cases.items() if (r := _compared(k, c)) is not None]
        shares = [s for c in cases.values() if (s := _share(c)) is not None]
        rows.append([kind, str(len(cases)), *_mean_and_least(ratios), *_mean_and_least(shares)])
    return [Table(titles, rows)]


def every(content: Mapping[str, Any]) -> Table:
    """One row a case."""
    titles = ["case", "edgeconv ms", "fastest other ms", "engine", "fastest other / edgeconv"]
    titles += ["gain over dense", "ideal gain", "gain / ideal gain"]
    rows = []
    for key, case in content["cases"].items():
        found = _compared(key, case)
        if found is not None:
            numbers = (gain(case["measurements"]), case["ideal"], _share(case))
            times = [milliseconds(found.own_ms), milliseconds(found.peer_ms)]
            times += [PEERS[found.peer].title, f"{found.ratio:.2f}"]
            rows.append([key, *times, *(NOTHING if n is None else f"{n:.2f}" for n in numbers)])
    return Table(titles, rows)


def dots(content: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """(case, fastest other / edgeconv) by kind."""
    found: dict[str, list[tuple[str, float]]] = {}
    for key, case in content["cases"].items():
        compared = _compared(key, case)
        if compared is not None:
            found.setdefault(case["kind"], []).append((key, compared.ratio))
    return found


def _compared(key: str, case: Case) -> Comparison | None:
    return compare(key, case["measurements"]["structured"])


def _share(case: Case) -> float | None:
    faster = gain(case["measurements"])
    return None if faster is None else faster / float(case["ideal"])


def _mean_and_least(values: Sequence[float]) -> list[str]:
    return [f"{geometric_mean(values):.2f}", f"{min(values):.2f}"] if values else [NOTHING] * 2


def summary(content: Mapping[str, Any]) -> str:
    """Markdown: by kind, then every case, then what failed."""
    broken = faults({key: case["measurements"] for key, case in content["cases"].items()})
    return together([*tables(content), every(content)]) + (f"\n{broken}" if broken else "")


def ideal(layer: Layer) -> float:
    """How many times fewer products the structured convolution has."""
    if isinstance(layer, Sliding):
        return float(layer.cg)
    weights = onnx.numpy_helper.to_array(layer.structured().graph.initializer[0])
    return float(weights.size / np.count_nonzero(weights))


def main() -> None:
    """Measure and print the summary, or only print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=options.numbers, default=list(CHANNELS))
    parser.add_argument("--maps", type=options.numbers, default=list(MAPS))
    parser.add_argument("--only", choices=("sliding", "ragged"), help="one kind of layer")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="only summarise this file")
    options.add(parser, seconds=2.0)
    chosen = parser.parse_args()
    if chosen.summary is not None:
        print(summary(read(chosen.summary)))
        return
    engines = options.engines(parser, chosen)
    records = Records(chosen.output, PROGRAMME, {"seconds": chosen.seconds, "engines": engines})

    def wanted(layer: Layer) -> bool:
        return not chosen.only or str(layer).startswith(chosen.only)

    for layer in filter(wanted, layers(chosen.channels, chosen.maps)):
        key = str(layer)
        if key in records:
            continue
        measured = measure(layer, engines, chosen)
        kind = type(layer).__name__.lower()
        records.add(key, {"kind": kind, "ideal": ideal(layer), "measurements": measured})
        result = compare(key, measured["structured"])
        if result is not None:
            faster = gain(measured) or math.nan
            print(f"{key}: {result.ratio:.2f} {result.peer}, dense {faster:.2f}", flush=True)
    print(summary(records.content))


if __name__ == "__main__":
    main()
