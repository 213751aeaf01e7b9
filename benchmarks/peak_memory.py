"""Memory that a network needs: peak of a process that runs it over one that runs next to nothing.

    python -m edgeconv.benchmarks.peak_memory [NETWORK...] [-o memory.json] [--threads 1]

Each engine loads the network from a file and runs it five times in a fresh process: edgeconv its
compiled artifact, ONNX Runtime the ONNX model. The same process on a network of one tiny
convolution is the bare runtime. Linux only: the peak is the kernel's VmHWM.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgeconv
from edgeconv.benchmarks import networks
from edgeconv.benchmarks.onnx_builder import Builder
from edgeconv.benchmarks.records import Case, Records
from edgeconv.errors import EdgeconvError

PROGRAMME = "peak_memory"
DEFAULT = ("mobilenetv2", "resnet50", "shufflenetv1_g3")
ENGINES = ("edgeconv", "onnxruntime")
PROCESS = "edgeconv.benchmarks.memory_process"


def peak_mib(engine: str, path: Path, threads: int) -> float:
    """Peak resident memory of a fresh process that loads and runs a network, in MiB.

    Raises:
        EdgeconvError: the process failed.
    """
    command = [sys.executable, "-m", PROCESS, engine, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EdgeconvError(f"{engine} on {path.name} failed:\n{done.stderr[-1000:]}")
    return float(done.stdout.split()[-1])


def measure(model: onnx.ModelProto, threads: int, repeats: int = 3) -> dict[str, float]:
    """Peak MiB by engine, the smallest of several processes: nothing makes it too small."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "network.onnx")
        onnx.save(model, source)
        built = Path(folder, "network.edgeconv")
        edgeconv.compile(source, "host", threads=threads).save(built)
        for engine, path in zip(ENGINES, (built, source), strict=True):
            found[engine] = min(peak_mib(engine, path, threads) for _ in range(repeats))
    return found


def bare_network() -> onnx.ModelProto:
    """One 1×1 convolution of 16 channels on 4×4 pixels."""
    b = Builder("bare", (1, 16, 4, 4))
    return b.model(b.conv("input", 16, 16, (1, 1)))


def summary(content: Mapping[str, Any]) -> str:
    """Markdown table, MiB."""
    lines = [
        "| network | threads | weights | edgeconv | ONNX Runtime | ONNX Runtime / edgeconv |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case in content["cases"].values():
        over = {e: case["peak_mib"][e] - case["bare_mib"][e] for e in ENGINES}
        lines.append(
            f"| {case['network']} | {case['threads']} | {case['weights_mib']:.1f} "
            f"| {over['edgeconv']:.1f} | {over['onnxruntime']:.1f} "
            f"| {over['onnxruntime'] / over['edgeconv']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _weights_mib(model: onnx.ModelProto) -> float:
    return sum(4 * int(np.prod(t.dims)) for t in model.graph.initializer) / 2**20


def main() -> None:
    """Measure the networks and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(DEFAULT))
    parser.add_argument("-o", "--output", type=Path, help="JSON file, continued if it exists")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    records = Records(chosen.output, PROGRAMME, {"threads": chosen.threads})
    bare: dict[str, float] = {}
    for name in chosen.networks:
        key = Path(name).stem
        if key in records:
            continue
        bare = bare or measure(bare_network(), chosen.threads)
        model = networks.load(name)
        case: Case = {"network": key, "threads": chosen.threads, "bare_mib": bare}
        case["weights_mib"] = _weights_mib(model)
        records.add(key, {**case, "peak_mib": measure(model, chosen.threads)})
    print(summary(records.content))


if __name__ == "__main__":
    main()
