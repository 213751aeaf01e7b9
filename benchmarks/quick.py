"""`make bench`: a few real networks beside ONNX Runtime and untuned TVM, in about two minutes.

python -m edgeconv.benchmarks.quick [--threads N] [NETWORK...]
"""

from __future__ import annotations

import argparse

from rich.console import Console

from edgeconv.benchmarks import networks
from edgeconv.benchmarks.demo import compare, table
from edgeconv.benchmarks.harness import pin

DEFAULT = ("shufflenet", "squeezenet", "resnet50", "inception_v1")


def main() -> None:
    """Measure the networks and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(DEFAULT))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="measuring time a network")
    options = parser.parse_args()
    unknown = sorted(set(options.networks) - set(networks.light_names()))
    if unknown:
        parser.error(
            f"unknown {', '.join(unknown)}; choose from {', '.join(networks.light_names())}"
        )
    console = Console()
    pin(options.threads)
    for name in options.networks:
        results = compare(name, options.threads, options.seconds, console)
        console.print(table(f"{name}, {options.threads} thread(s)", results))


if __name__ == "__main__":
    main()
