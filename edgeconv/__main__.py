"""The command `edgeconv`, also as `python -m edgeconv`.

A board may have edgeconv without the packages of its command line and its compiler
(docs/devices.md): `edgeconv device serve` works there too, and the rest says what is missing.
"""

from __future__ import annotations

import importlib.util
import sys

_LINE_PACKAGES = ("typer", "rich")
_SERVE = ["device", "serve"]


def main() -> None:
    """Entry point of the console script."""
    missing = [name for name in _LINE_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        from edgeconv.cli import main as command_line

        return command_line()
    if sys.argv[1:3] == _SERVE:
        from edgeconv.device.__main__ import main as serve

        sys.exit(serve(sys.argv[3:], "edgeconv device serve"))
    print(
        f"error: {' and '.join(missing)} missing: this installation can only `edgeconv device "
        "serve`; for the other commands, pip install edgeconv with its dependencies",
        file=sys.stderr,
    )
    sys.exit(1)


if __name__ == "__main__":
    main()
