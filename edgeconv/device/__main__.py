"""`python -m edgeconv.device`: the server for boards that have edgeconv without its other packages.

The same as `edgeconv device serve`, which needs typer and rich.
"""

from __future__ import annotations

import argparse
import logging
import sys

from edgeconv.device.serving import SERVE_HELP, options, serve_here
from edgeconv.errors import EdgeconvError


def main() -> int:
    """Parse the command line, serve; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgeconv.device", description=SERVE_HELP)
    parser.add_argument("--tracker", metavar="HOST:PORT")
    parser.add_argument("--key", default="")
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--work", metavar="FOLDER")
    parser.add_argument("--once", action="store_true", help="end after the first session")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        serve_here(
            options(given.tracker, given.key, given.listen, given.port, given.work, given.once)
        )
    except EdgeconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
