"""`make bench`: real networks beside ONNX Runtime and untuned TVM, in a few minutes.

    python -m edgeconv.benchmarks.quick [--threads N] [--output results.json] [NETWORK...]

A network is one of the onnx package's (`shufflenet`, `resnet50` …), a builder of
`edgeconv.benchmarks.models` (`mobilenetv2` …; needs torch), or a path to an ONNX file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx
from rich.console import Console

from edgeconv.benchmarks import networks
from edgeconv.benchmarks.demo import compare, table
from edgeconv.benchmarks.harness import pin
from edgeconv.benchmarks.provenance import provenance
from edgeconv.targets import host

DEFAULT = ("shufflenet", "squeezenet", "resnet50")


def load(name: str) -> onnx.ModelProto:
    """The network a name or path stands for.

    Raises:
        SystemExit: nothing does.
    """
    if name in networks.light_names():
        return networks.light_network(name, logits=True)
    if Path(name).suffix == ".onnx":
        return onnx.load(name)
    try:
        from edgeconv.benchmarks import models
    except ImportError as error:
        raise SystemExit(f"'{name}' needs torch: pip install 'edgeconv[bench]'") from error
    if name not in models.NETWORKS:
        known = [*networks.light_names(), *models.NETWORKS]
        raise SystemExit(f"no network '{name}'; there are {', '.join(known)}, or an .onnx file")
    return models.export(name)


def main() -> None:
    """Measure the networks, print a table for each, and write all samples on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(DEFAULT))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="measuring time a network")
    parser.add_argument("--output", type=Path, help="JSON file for all samples")
    options = parser.parse_args()
    if not 1 <= options.threads <= host().cores:
        parser.error(f"--threads is between 1 and {host().cores} on this machine")
    console = Console()
    pin(options.threads)
    measured = {}
    for name in options.networks:
        results = compare(name, load(name), options.threads, options.seconds, console)
        console.print(table(f"{name}, {options.threads} thread(s)", results))
        measured[Path(name).stem] = [r.to_json() for r in results]
    if options.output:
        record = {**provenance(), "threads": options.threads, "networks": measured}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
