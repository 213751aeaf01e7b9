"""`edgeconv bench check`: a five-minute set against the committed baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.bench import session
from edgeconv.cli.bench.options import Lock, Rounds, Strict, method
from edgeconv.cli.failures import FAILED, guarded
from edgeconv.cli.logs import Verbose

if TYPE_CHECKING:
    from edgeconv.benchmarks.check import Outcome

Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="Compare with this. Default: the one that ships for this kind of CPU.",
        show_default=False,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance", min=0.0, metavar="R", help="How much slower relative to ONNX Runtime is ok."
    ),
]
Device = Annotated[str | None, typer.Option("--device", "-d", hidden=True)]
Write = Annotated[bool, typer.Option("--write", help="Measure, and write the baseline instead.")]


@guarded
def command(
    baseline: Baseline = None,
    tolerance: Tolerance = 0.15,
    write: Write = False,
    device: Device = None,
    rounds: Rounds = 50,
    strict: Strict = False,
    lock: Lock = None,
    verbose: Verbose = False,
) -> None:
    """Compare a fixed set with the committed baseline.

    Fails where edgeconv became slower relative to ONNX Runtime. A case that looks slower is
    measured again. Takes about five minutes.

    \b
    Example:
      edgeconv bench check
    """
    if device is not None:
        raise typer.BadParameter(
            "the check is relative to ONNX Runtime, which is not measured over RPC; run it on the "
            "board",
            param_hint="'--device'",
        )
    with out.progress("loading") as report:
        from edgeconv.benchmarks import check, compare

        path = check.baseline() if baseline is None else baseline
        if write:
            out.check_output(path)
        old = None if write else check.read_baseline(path)
        how = method(
            engines=",".join(check.ENGINES),
            threads=[1],
            target="host",
            rounds=rounds,
            seconds=None,
            strict=strict,
            limit=300.0,
            lock=lock,
        )

        def starting(key: str, number: int) -> None:
            report(f"case {number + 1}: {key}")

        if old is None:
            noisy = check.write(path, how, starting)
            out.line(f"written  {path}")
            if noisy:
                out.message("warning", f"left out, for the machine was noisy: {'; '.join(noisy)}")
            return
        found = check.run(old, how, tolerance, starting)
    session.show(compare.table(found.changes))
    _explain(found, check.made_for(old))
    if found.regressions:
        out.message(
            "error",
            f"{out.plural(len(found.regressions), 'case')} slower than the baseline by more than "
            f"{tolerance:.0%}, relative to ONNX Runtime, or failing",
        )
    if found.regressions or len(found.unknown) == len(found.changes):
        raise typer.Exit(FAILED)


def _explain(found: Outcome, cpu: str) -> None:
    from edgeconv.targets import host

    if cpu != host().cpu:
        out.message("warning", f"the baseline is of another CPU: {cpu}, this is {host().cpu}")
    if found.unknown:
        kind = "error" if len(found.unknown) == len(found.changes) else "warning"
        cases = "; ".join(found.unknown)
        out.message(kind, f"the baseline has nothing to compare with for: {cases}")
    if found.noisy:
        cases = "; ".join(found.noisy)
        out.message("warning", f"measured on a noisy machine, measure again: {cases}")
