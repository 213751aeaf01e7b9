"""edgeconv itself, through its public API."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import edgeconv
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer

PROFILE_RUNS = 20


def prepare(path: Path, inputs: Arrays, threads: int, target: str = "host") -> Bound:
    """Compiled for a target that runs here, with default knobs."""
    return bound(edgeconv.compile(path, target, threads=threads, records=False), inputs)


def bound(model: edgeconv.Model, inputs: Arrays) -> Bound:
    """A compiled network that keeps its inputs."""
    call = model.bind(inputs)

    def profile() -> list[dict[str, Any]]:
        return [asdict(row) for row in model.profile(inputs, repeat=PROFILE_RUNS).rows]

    return Bound(call, lambda: list(call.outputs.values()), profile)


PEER = Peer("edgeconv", "edgeconv", ("edgeconv",), ("edgeconv",), prepare, "untuned, bound call")


def for_target(target: str) -> Peer:
    """The same, compiled for another target."""
    prepared = partial(prepare, target=target)
    return replace(PEER, prepare=prepared, note=f"{PEER.note}, for {target}")
