"""Options that the measuring commands share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.options import DEVICE_FORMS
from edgeconv.errors import EdgeconvError

if TYPE_CHECKING:
    from edgeconv.benchmarks.running import Method

MOST_ROUNDS = 100_000

Engines = Annotated[
    str | None,
    typer.Option(
        "--engines",
        metavar="A,B",
        help="Engines beside edgeconv and ONNX Runtime. Default: all that are installed, but for "
        "edgeconv_tuned and tvm_tuned, which take minutes.",
        show_default=False,
    ),
]
ThreadList = Annotated[
    str, typer.Option("--threads", metavar="N,N", help="Numbers of threads, each measured.")
]
BenchTarget = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE",
        help="What edgeconv compiles for; it must run here, or on the --device, for which the "
        "default is what fits it best.",
    ),
]
BenchDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        "-d",
        metavar="NAME|ADDRESS",
        help=f"Measure edgeconv, alone, on this board: {DEVICE_FORMS}.",
        show_default=False,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        "--rounds",
        min=5,
        max=MOST_ROUNDS,
        metavar="N",
        help="Rounds a case; in each, every engine runs a block of calls.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        min=0.01,
        max=86_400.0,
        metavar="S",
        help="Measure each case for so long instead, in at most --rounds rounds and at least 5.",
        show_default=False,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Keep results and raw samples; cases that are in FILE are not measured again.",
        show_default=False,
    ),
]
CsvFile = Annotated[
    str | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write one row an engine; - prints it instead of the table.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail where the machine was noisy, instead of saying so.")
]
Limit = Annotated[
    float,
    typer.Option(
        "--limit", min=1.0, metavar="S", help="Seconds an engine may take to convert and load."
    ),
]
Lock = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        help="Hold FILE locked while measuring: several programs may share a machine.",
        show_default=False,
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        "--trials",
        min=1,
        max=MOST_ROUNDS,
        metavar="N",
        help="Candidates of each kernel that tvm_tuned measures; what it found is kept.",
    ),
]
Mode = Annotated[
    bool,
    typer.Option(
        "--chain", help="Four such layers in a row, each with weights of its own and ReLU."
    ),
]


def numbers(text: str, option: str) -> list[int]:
    """Comma-separated positive numbers, each once.

    Raises:
        typer.BadParameter: there is none, or a word is no positive number.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(w.isascii() and w.isdigit() and 0 < int(w) < 2**31 for w in words):
        raise typer.BadParameter(
            f"'{text}' is no list of positive numbers such as 1,2,4", param_hint=f"'{option}'"
        )
    return list(dict.fromkeys(int(w) for w in words))


def words(text: str) -> list[str]:
    """Comma-separated words, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def check_outputs(json_file: Path | None, csv_file: str | None) -> None:
    """Refuse early what can't be written.

    Raises:
        EdgeconvError: so.
    """
    if json_file is not None:
        out.check_output(json_file)
    if csv_file is not None and csv_file != "-":
        table = Path(csv_file)
        if json_file is not None and table.resolve() == json_file.resolve():
            raise typer.BadParameter("names the file of --json", param_hint="'--csv'")
        out.check_output(table)


def check_lock(path: Path) -> None:
    """Refuse early what can't be locked.

    Raises:
        EdgeconvError: so.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise EdgeconvError(f"can't lock {path}: {error.strerror or error}") from error


def method(
    *,
    engines: str | None,
    threads: list[int],
    target: str,
    rounds: int,
    seconds: float | None,
    strict: bool,
    limit: float,
    lock: Path | None,
    profile: bool = False,
    device: str | None = None,
    timeout: float = 30.0,
    trials: int = 64,
) -> Method:
    """How to measure; says which engines are absent, and how to add them.

    Raises:
        EdgeconvError: an engine, a thread count, the target or the board does not fit.
    """
    from edgeconv.benchmarks import running
    from edgeconv.benchmarks.rounds import Pace

    if lock is not None:
        check_lock(lock)
    if device is not None:
        if engines is not None:
            raise typer.BadParameter(
                "over RPC only edgeconv is measured; run the command on the board for others",
                param_hint="'--engines'",
            )
        from edgeconv.benchmarks import on_device
        from edgeconv.benchmarks.peers import OWN

        board = on_device.look(device, target, threads, timeout)
        pace, target = Pace(rounds, seconds), board.target.name if target == "host" else target
        return running.Method([OWN], pace, target, profile, strict, limit, lock, board)
    running.check_threads(threads)
    running.check_target(target)
    names, absent = running.engines(None if engines is None else words(engines))
    for peer in absent:
        out.message("note", f"{peer.title} is absent; {peer.install}")
    pace = Pace(rounds, seconds)
    return running.Method(names, pace, target, profile, strict, limit, lock, trials=trials)
