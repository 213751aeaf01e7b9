"""`make demo`: one real network through the main job, with proof and comparison.

python -m edgeconv.benchmarks.demo [NETWORK] [--threads N]
"""

from __future__ import annotations

import argparse
import time

import onnx
from rich.console import Console
from rich.table import Table

from edgeconv.benchmarks import networks
from edgeconv.benchmarks.engines import (
    Engine,
    edgeconv_engine,
    onnxruntime_engine,
    stock_tvm_engine,
)
from edgeconv.benchmarks.harness import Result, interleave, pin, random_inputs
from edgeconv.targets import host


def compare(
    network: str, model: onnx.ModelProto, threads: int, seconds: float, console: Console
) -> list[Result]:
    """Compile, check and time one network on all engines."""
    inputs = random_inputs(model)
    engines: list[Engine] = []
    for make in (edgeconv_engine, onnxruntime_engine, stock_tvm_engine):
        title = make.__name__.removesuffix("_engine").replace("_", " ")
        with console.status(f"{network}: preparing {title}"):
            start = time.perf_counter()
            engines.append(make(model, inputs, threads))
        console.print(f"  {title:12} ready after {time.perf_counter() - start:5.1f} s")
    with console.status(f"{network}: measuring, engines in turns"):
        return interleave(engines, engines[1], seconds)


def table(title: str, results: list[Result]) -> Table:
    """Latency, speed relative to edgeconv, and error of each engine."""
    grid = Table(title=title, title_justify="left")
    for header in ("engine", "median ms", "p10", "p90", "time / edgeconv", "error"):
        grid.add_column(header, justify="left" if header == "engine" else "right")
    own = results[0].median_ms
    for r in results:
        ordered = sorted(r.samples_ms)
        low, high = ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]
        ratio = f"{r.median_ms / own:.2f}"
        error = "reference" if r.engine == "ONNX Runtime" else f"{r.error:.1e}"
        grid.add_row(r.engine, f"{r.median_ms:.2f}", f"{low:.2f}", f"{high:.2f}", ratio, error)
    return grid


def main() -> None:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", default="shufflenet", choices=networks.light_names())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time")
    options = parser.parse_args()
    if not 1 <= options.threads <= host().cores:
        parser.error(f"--threads is between 1 and {host().cores} on this machine")
    console = Console()
    device = host()
    pin(options.threads)
    console.print(f"{options.network}, float32, batch 1, {options.threads} thread(s)")
    console.print(f"  {device.description or device.cpu}: {device.lanes} float32 lanes")
    model = networks.light_network(options.network, logits=True)
    results = compare(options.network, model, options.threads, options.seconds, console)
    console.print(table(f"{options.network}: latency, engines measured in turns", results))
    console.print("Outputs agree with ONNX Runtime; errors are relative to the largest output.")


if __name__ == "__main__":
    main()
