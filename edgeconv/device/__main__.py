"""The server for boards that have edgeconv without its other packages.

`python -m edgeconv.device`, and `edgeconv device serve` where typer and rich are missing.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from edgeconv.device.serving import SERVE_HELP, options, serve_here
from edgeconv.errors import EdgeconvError


def main(arguments: Sequence[str] | None = None, program: str = "python -m edgeconv.device") -> int:
    """Parse the arguments (default: the process's), serve; the exit status."""
    parser = argparse.ArgumentParser(prog=program, description=SERVE_HELP)
    parser.add_argument("--tracker", metavar="HOST:PORT")
    parser.add_argument("--key", default="")
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--work", metavar="FOLDER")
    parser.add_argument("--once", action="store_true", help="end after the first session")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        serve_here(
            options(given.tracker, given.key, given.listen, given.port, given.work, given.once)
        )
    except EdgeconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
