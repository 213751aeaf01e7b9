"""edgeconv itself, through its public API."""

from __future__ import annotations

from pathlib import Path

import edgeconv
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """Compiled for the host, untuned."""
    call = edgeconv.compile(path, "host", threads=threads).bind(inputs)
    return Bound(call, lambda: list(call.outputs.values()))


PEER = Peer("edgeconv", "edgeconv", ("edgeconv",), ("edgeconv",), prepare, "untuned, bound call")
