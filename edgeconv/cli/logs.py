"""Logging for `--verbose`, and the option itself."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

VERBOSE_HELP = "Log what happens, and show the traceback of an unexpected error."

logger = logging.getLogger("edgeconv.cli")
_verbose = False


def be_verbose(value: bool) -> bool:
    """Log edgeconv's messages to stderr, or stop doing so."""
    global _verbose
    _verbose = value
    root = logging.getLogger("edgeconv")
    for handler in [h for h in root.handlers if isinstance(h, _Stderr)]:
        root.removeHandler(handler)
    root.setLevel(logging.DEBUG if value else logging.NOTSET)
    if value:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(relativeCreated)7d ms %(name)s: %(message)s"))
        root.addHandler(handler)
    return value


def is_verbose() -> bool:
    """Whether `--verbose` was given."""
    return _verbose


class _Stderr(logging.StreamHandler):
    """Ours: told apart from handlers of a program that calls edgeconv."""


def _add(value: bool) -> bool:
    return be_verbose(True) if value else value


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help=VERBOSE_HELP, callback=_add)]
