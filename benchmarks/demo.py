"""`make demo`: one real network through the main job, with proof and comparison.

python -m edgeconv.benchmarks.demo [NETWORK] [--threads N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from edgeconv.benchmarks import networks
from edgeconv.benchmarks.harness import Cores, Timing, measure
from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE
from edgeconv.benchmarks.rounds import Pace
from edgeconv.errors import EdgeconvError
from edgeconv.targets import host

ENGINES = (OWN, REFERENCE, "tvm")


def compare(name: str, threads: int, seconds: float, console: Console) -> dict[str, Timing]:
    """Compile, check and time one network on three engines.

    Raises:
        EdgeconvError: edgeconv failed, or its result is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        onnx.save(networks.load(name), path)
        with console.status(f"{name}: preparing the engines, then measuring them in turns"):
            found = measure(path, ENGINES, threads, Pace(seconds=seconds), Cores(threads))
    if OWN in found.failed:
        raise EdgeconvError(f"{found.failed[OWN]}; please report it")
    return found.timings


def table(title: str, timings: dict[str, Timing]) -> Table:
    """Latency, speed relative to edgeconv, and error of each engine."""
    grid = Table(title=title, title_justify="left")
    for header in ("engine", "median ms", "p10", "p90", "time / edgeconv", "error", "prepared in"):
        grid.add_column(header, justify="left" if header == "engine" else "right")
    own = timings[OWN].median_ms
    for name, timing in timings.items():
        t = timing.to_json()
        grid.add_row(
            PEERS[name].title,
            *(f"{t[key]:.2f}" for key in ("median_ms", "p10_ms", "p90_ms")),
            f"{t['median_ms'] / own:.2f}",
            "reference" if name == REFERENCE else f"{timing.error:.1e}",
            f"{timing.prepare_s:.1f} s",
        )
    return grid


def main() -> None:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", default="shufflenet", choices=networks.names())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="measuring time")
    options = parser.parse_args()
    device = host()
    if not 1 <= options.threads <= device.cores:
        parser.error(f"--threads is between 1 and {device.cores} on this machine")
    console = Console()
    console.print(f"{options.network}, float32, batch 1, {options.threads} thread(s)")
    console.print(f"  {device.description or device.cpu}: {device.lanes} float32 lanes")
    timings = compare(options.network, options.threads, options.seconds, console)
    console.print(table(f"{options.network}: latency, engines measured in turns", timings))
    console.print("Outputs agree with ONNX Runtime; errors are relative to the largest output.")


if __name__ == "__main__":
    main()
