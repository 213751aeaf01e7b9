"""What every engine looks like to a measurement."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class Unsupported(Exception):
    """The engine, or its converter, cannot take this network; the message says what it lacks."""


@dataclass(frozen=True)
class Bound:
    """A network ready to run.

    Attributes:
        call: one inference on inputs already in the engine's hands; this is what is timed.
        outputs: the results of the last call, in the ONNX model's order, shapes and layout.
        profile: times of single layers, where the engine tells them.
    """

    call: Callable[[], Any]
    outputs: Callable[[], list[np.ndarray]]
    profile: Callable[[], list[dict[str, Any]]] | None = None


@dataclass(frozen=True)
class Peer:
    """One engine.

    Attributes:
        name: key in results and on the command line.
        title: for tables.
        packages: distributions it needs, the engine's own first.
        modules: import names that show whether it is installed.
        prepare: (ONNX file, inputs by name, threads) -> Bound; raises Unsupported, or whatever the
            engine raises.
        note: what a reader of a table must know about how it runs.
        on_request: runs only where it is asked for by name.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    prepare: Callable[[Path, Arrays, int], Bound]
    note: str
    on_request: bool = False

    @property
    def available(self) -> bool:
        """Everything it needs is installed."""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)

    @property
    def version(self) -> str | None:
        """Version of the engine, None if it is absent."""
        return package_version(self.packages[0])

    @property
    def install(self) -> str:
        """The command that adds it."""
        return f"pip install -c constraints.txt {' '.join(self.packages)}"


def package_version(distribution: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
