"""`edgeconv tune`: search better knobs for a network on a device, and keep them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import (
    Exact,
    InputShapes,
    Json,
    ModelFile,
    RecordFolder,
    Target,
    Threads,
    numerics,
    parse_shapes,
)
from edgeconv.cli.sources import require_onnx
from edgeconv.cli.tune_table import clock, print_result, watching

if TYPE_CHECKING:
    from edgeconv.targets import Device
    from edgeconv.tuning.tuner import Tuner

_BUDGET = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")

Budget = Annotated[
    str,
    typer.Option(
        "--budget", metavar="TIME", help="Time for all of it: 30m, 90s, 1h30m; none: no limit."
    ),
]
Trials = Annotated[
    int, typer.Option("--trials", min=1, max=1_000_000, metavar="N", help="Most trials of a task.")
]
EarlyStop = Annotated[
    int,
    typer.Option(
        "--early-stop",
        min=1,
        metavar="N",
        help="A task ends after so many trials without a gain.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        metavar="2|4-6|LAYER*",
        help="Only these tasks, by number or by a layer's name; may be repeated.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of what is drawn.")]
Again = Annotated[bool, typer.Option("--again", help="Also tasks that have records already.")]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Where the report goes. Default: MODEL's name with .tune.html, in this folder.",
        show_default=False,
    ),
]
Lock = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        help="Held locked while measuring, where several programs measure.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


@guarded
def command(
    model: ModelFile,
    target: Target = "host",
    budget: Budget = "30m",
    trials: Trials = 200,
    early_stop: EarlyStop = 64,
    tasks: Tasks = None,
    threads: Threads = None,
    exact: Exact = False,
    seed: Seed = 0,
    again: Again = False,
    records: RecordFolder = None,
    report_file: ReportFile = None,
    input_shape: InputShapes = None,
    lock: Lock = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search better knobs for the convolutions of a network, and keep them.

    Candidates of every schedule that can take a layer are compiled, checked and timed, the default
    first. The fastest become records, which `edgeconv compile` uses from then on. A command that
    was stopped goes on when it is given again.

    \b
    Example:
      edgeconv tune net.onnx --threads 1 --budget 10m
      edgeconv tune net.onnx --tasks 1-3 --tasks 'conv5*' --trials 100
    """
    seconds = parse_budget(budget)
    shapes = parse_shapes(input_shape)
    require_onnx(model)
    page = Path(f"{model.stem}.tune.html") if report_file is None else report_file
    out.check_output(page, [model])
    with out.progress("loading the compiler"):
        from edgeconv import api
        from edgeconv.tuning.plan import Options

        device = api.resolve_target(target)
        count = device.cores if threads is None else threads
        device.tvm_target(count)  # refuses a bad number of threads
        _check_device(device, count)
    options = Options(trials, seconds, early_stop, seed, exact, tuple(tasks or ()), again)
    with watching(quiet or verbose) as watch:
        tuner = _tuner(model, device, count, options, shapes, records, lock)
        tuner.watch = watch
        try:
            found = _tune(tuner, model, device, count, shapes)
        finally:
            tuner.runner.close()
            tuner.close()
    from edgeconv.tuning.page import network_text
    from edgeconv.tuning.page import page as as_page

    with out.replacing(page) as file:
        file.write(as_page(found).encode())
    if as_json:
        out.write_json({**found, "report": str(page)})
        return
    print_result(found)
    out.fields(
        [
            ("network", network_text(found["network"])),
            ("time", f"{clock(found['seconds'])}, {out.plural(found['trials'], 'trial')}"),
            ("failures", found["failures"]),
            ("records", found["records"]),
            ("report", page),
        ]
    )


def _tuner(
    model: Path,
    device: Device,
    threads: int,
    options: Any,
    shapes: dict[str, tuple[int, ...]],
    folder: Path | None,
    lock: Path | None,
) -> Tuner:
    from edgeconv import api
    from edgeconv.targets.host import available_cores, cpu_model
    from edgeconv.tuning import plan, records
    from edgeconv.tuning.runner import ProcessRunner
    from edgeconv.tuning.tuner import Tuner

    items = plan.items(api.import_graph(model, shapes or None), device, threads)
    return Tuner(
        items,
        plan.with_threads(device, threads),
        options,
        ProcessRunner(threads, lock=lock),
        records.user_folder() if folder is None else folder,
        cpu_model=cpu_model(),
        cores=len(available_cores()),
    )


def _tune(
    tuner: Tuner,
    model: Path,
    device: Device,
    threads: int,
    shapes: dict[str, tuple[int, ...]],
) -> dict[str, Any]:
    """Search, finals, the whole network; what came of it."""
    from edgeconv import api
    from edgeconv.tuning import whole
    from edgeconv.tuning.summary import summary

    def compile_(source: Any) -> Any:
        return api.compile_artifact(
            model,
            device,
            threads=threads,
            input_shapes=shapes or None,
            numerics=numerics(tuner.options.exact),
            records=False if source is None else source,
        )

    tuner.run()
    known = whole.known_comparison(tuner)
    if known is None:
        network = whole.to_json(whole.check_network(tuner, compile_))
    else:
        network = known["result"]
    found = summary(tuner, model.name, network)
    tuner.journal.add("done", spent=round(tuner.spent, 3))
    return found


def _check_device(device: Device, threads: int) -> None:
    """Refuse what can't be measured here.

    Raises:
        EdgeconvError: another CPU, or more threads than cores.
    """
    from edgeconv.errors import EdgeconvError
    from edgeconv.targets.host import available_cores

    if not device.is_native:
        raise EdgeconvError(
            f"'{device.name}' ({device.arch}, {device.cpu}) is not this machine, and tuning "
            "measures on the device itself"
        )
    if threads > len(available_cores()):
        cores = out.plural(len(available_cores()), "core")
        raise EdgeconvError(f"{threads} threads can't be measured: this process may use {cores}")


def parse_budget(text: str) -> float | None:
    """Seconds of "30m", "1h30m", "45s", "45"; None of "none".

    Raises:
        typer.BadParameter: it is none of these.
    """
    if text == "none":
        return None
    match = _BUDGET.fullmatch(text)
    parts = [int(g or 0) for g in match.groups()] if match and text else [0]
    seconds = sum(n * unit for n, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise typer.BadParameter(
            f"'{text}' is no time; 30m, 90s, 1h30m, or none", param_hint="'--budget'"
        )
    return float(seconds)
