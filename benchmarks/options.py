"""Arguments that the measuring programmes share."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeconv.benchmarks.peers import OWN, PEERS, REFERENCE, find


def names(text: str) -> list[str]:
    """Comma-separated words."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    """Comma-separated integers."""
    return [int(word) for word in names(text)]


def add(parser: argparse.ArgumentParser, *, seconds: float) -> None:
    """Options of every programme that runs engines."""
    parser.add_argument("-o", "--output", type=Path, help="JSON file, continued if it exists")
    parser.add_argument(
        "--engines", type=names, help=f"default: all that are installed of {', '.join(PEERS)}"
    )
    parser.add_argument("--seconds", type=float, default=seconds, help="measuring time a network")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds an engine may take to prepare"
    )
    parser.add_argument("--lock", type=Path, help="file to hold locked while measuring")


def engines(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> list[str]:
    """Names of the installed engines that were asked for, edgeconv and the reference first.

    Prints how to install the others.
    """
    wanted: list[str] | None = chosen.engines
    if wanted is not None:
        unknown = set(wanted) - PEERS.keys()
        if unknown:
            parser.error(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
        wanted = list(dict.fromkeys([OWN, REFERENCE, *wanted]))
    installed, absent = find(wanted)
    for peer in absent:
        print(f"absent: {peer.title}; {peer.install}", flush=True)
    return [peer.name for peer in installed]
