"""`edgeconv doctor`: does edgeconv work here, and what to do where it doesn't."""

from __future__ import annotations

from dataclasses import asdict

import typer

from edgeconv.checks import FAULT, WARNING, Check, carried_out
from edgeconv.cli import output as out
from edgeconv.cli.doctor_machine import (
    check_cores,
    check_cpu,
    check_temporary_folder,
    cpu_quota,
)
from edgeconv.cli.doctor_native import check_native
from edgeconv.cli.doctor_versions import check_extras, check_versions, tvm_is_usable
from edgeconv.cli.failures import FAILED, guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Json


@guarded
def command(as_json: Json = False, verbose: Verbose = False) -> None:
    """Check installation and machine; say what to do.

    Versions, processor, cores, linkers, optional packages, and a small convolution that is
    compiled, run and verified. Exit status 1 if there is a fault; warnings don't count.

    \b
    Example:
      edgeconv doctor
    """
    with out.progress("checking versions and the machine") as report:
        checks = examine(report)
    conclude(checks, as_json, works="edgeconv works here", broken="edgeconv does not work here")


def examine(report: out.Report) -> list[Check]:
    """All checks. Those that load TVM are left out where its version is known to be wrong."""
    checks = list(check_versions())
    machine = (
        ("processor", check_cpu),
        ("cores", lambda: check_cores(cpu_quota())),
        ("temporary folder", check_temporary_folder),
    )
    checks += carried_out("Machine", machine)
    if tvm_is_usable(checks):
        report("loading TVM, compiling a convolution")
        checks += check_native()
    else:
        text = "not loaded: repair the faults under Versions first"
        checks.append(Check("Compiler", "TVM", FAULT, text, "then run `edgeconv doctor` again"))
    checks += check_extras()
    return checks


def conclude(checks: list[Check], as_json: bool, *, works: str, broken: str) -> None:
    """Print all checks and what follows from them; exit status 1 if there is a fault."""
    faults = sum(c.status == FAULT for c in checks)
    warnings = sum(c.status == WARNING for c in checks)
    if as_json:
        out.write_json({"ok": not faults, "checks": [asdict(c) for c in checks]})
    else:
        _print_checks(checks)
        verdict = broken if faults else works
        counts = f"{out.plural(faults, 'fault')}, {out.plural(warnings, 'warning')}"
        out.line()
        out.line(f"{verdict}: {counts}", style="bold red" if faults else "bold green")
    if faults:
        raise typer.Exit(FAILED)


def _print_checks(checks: list[Check]) -> None:
    """A table with a line for each finding."""
    columns = [
        out.Column("Section"),
        out.Column("Check"),
        out.Column("Status"),
        out.Column("Found", wrap=True),
        out.Column("What to do", below=True),
    ]
    before = ["", *(check.section for check in checks)]
    rows = [
        ("" if c.section == last else c.section, c.name, c.status, c.detail, c.advice)
        for c, last in zip(checks, before, strict=False)
    ]
    out.table(columns, rows)
