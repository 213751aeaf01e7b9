"""Style sheets of the page, and of charts as files."""

from __future__ import annotations

import re
from pathlib import Path

from edgeconv.benchmarks.page import palette

_FILE = Path(__file__).resolve().parent / "style.css"
_LIGHT = (
    "--bg:#fbfbfa;--panel:#fff;--ink:#1c2126;--soft:#5d6770;--faint:#e3e6e8;--up:#1f6fd1;"
    "--down:#d33c2f;--accent:#d9431e;"
)
_DARK = (
    "--bg:#14171a;--panel:#1c2024;--ink:#e8ebed;--soft:#9aa5ae;--faint:#30363c;--up:#5ca2ff;"
    "--down:#ff6b5c;--accent:#ff7a52;"
)


def of_page() -> str:
    """Everything."""
    return _themes() + palette.rules() + _FILE.read_text(encoding="utf-8")


def of_charts() -> str:
    """The part that charts need."""
    text = _FILE.read_text(encoding="utf-8")
    found = re.search(r"/\* charts \*/(.*?)/\* end of charts \*/", text, re.DOTALL)
    assert found is not None
    return _themes() + palette.rules() + found[1]


def _themes() -> str:
    light, dark = _LIGHT + palette.variables(0), _DARK + palette.variables(1)
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
    )
