"""`edgeconv tune`: search better knobs for a network on a device, and keep them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import (
    DEVICE_FORMS,
    Exact,
    InputShapes,
    Json,
    ModelFile,
    RecordFolder,
    Threads,
    Timeout,
    numerics,
    parse_shapes,
)
from edgeconv.cli.sources import require_onnx
from edgeconv.cli.tune_table import clock, print_result, watching

if TYPE_CHECKING:
    from edgeconv.device.info import BoardInfo
    from edgeconv.targets import Device
    from edgeconv.tuning.tuner import Tuner

_LONGEST_S = 10**8  # three years
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
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**31 - 1, metavar="N", help="Of what is drawn."),
]
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
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-d",
        metavar="NAME|ADDRESS",
        help=f"Measure on this board: {DEVICE_FORMS}. All boards of a tracker's key share the "
        "work; may be repeated. Default: this machine.",
        show_default=False,
    ),
]
TuneTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE",
        help="What to tune for. Default: host, or what fits the --device.",
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
    target: TuneTarget = None,
    device: Devices = None,
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
    timeout: Timeout = 30.0,
    lock: Lock = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search better knobs by measuring; compile uses them.

    Candidates of every schedule that can take a convolution are compiled, checked and timed, the
    default first; layers fused in one kernel also as two, pools with other tiles. The fastest
    become records, which
    `edgeconv compile` uses from then on. A command that was stopped goes on when it is given again.

    \b
    Example:
      edgeconv tune net.onnx --threads 1 --budget 10m
      edgeconv tune net.onnx --tasks 1-3 --tasks 'conv5*' --trials 100
      edgeconv tune net.onnx --target raspberry-pi-4 --device rpi4 --budget 30m
    """
    seconds = parse_budget(budget)
    shapes = parse_shapes(input_shape)
    require_onnx(model)
    page = Path(f"{model.stem}.tune.html") if report_file is None else report_file
    out.check_output(page, [model])
    with out.progress("loading the compiler") as report:
        from edgeconv.tuning.plan import Options

        place = _place(target, threads, device or [], timeout, report)
    options = Options(trials, seconds, early_stop, seed, exact, tuple(tasks or ()), again)
    tuner = _tuner(model, place, options, shapes, records, timeout, lock)
    try:
        for fault in tuner.faults:
            out.message("warning", fault)
        with watching(quiet or verbose) as watch:
            tuner.watch = watch
            found = _tune(tuner, model, place, shapes)
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


@dataclass(frozen=True)
class _Place:
    """Where to measure, and for what: target, threads, addresses of boards, CPU and its cores."""

    target: Device
    threads: int
    addresses: tuple[str | None, ...]
    cpu_model: str
    cores: int


def _place(
    target: str | None,
    threads: int | None,
    devices: Sequence[str],
    timeout: float,
    report: out.Report,
) -> _Place:
    """Look at the boards, or at this machine.

    Raises:
        EdgeconvError: a board can't be reached or can't run code for the target; more threads than
            cores.
    """
    from edgeconv import api
    from edgeconv.errors import EdgeconvError
    from edgeconv.targets.host import available_cores, cpu_model

    addresses: list[str | None] = []
    info: BoardInfo | None = None
    for name in devices:
        report(f"looking at {name}")
        found, count = _look(name, timeout)
        addresses += [name] * count
        info = info or found
    if info is None:
        chosen = api.resolve_target(target or "host")
        if not chosen.is_native:
            raise EdgeconvError(
                f"'{chosen.name}' ({chosen.arch}, {chosen.cpu}) is not this machine, and tuning "
                "measures: name a board with --device"
            )
        addresses, model, cores = [None], cpu_model(), len(available_cores())
    else:
        from edgeconv.device.detect import best_target

        chosen = best_target(info) if target is None else api.resolve_target(target)
        if (reason := info.mismatch(chosen)) is not None:
            raise EdgeconvError(f"{info.address} can't run code for '{chosen.name}': {reason}")
        model, cores = info.model or info.cpu_text, info.cores
        if info.emulated:
            text = "is emulated: times and records made there say nothing about a board"
            out.message("warning", f"{info.address} {text}")
    wanted = min(chosen.cores, cores) if threads is None else threads
    chosen.tvm_target(wanted)  # refuses a bad number of threads
    if wanted > cores:
        raise EdgeconvError(
            f"{wanted} threads can't be measured: there {'is' if cores == 1 else 'are'} "
            f"{out.plural(cores, 'core')} to use"
        )
    return _Place(chosen, wanted, tuple(addresses), model, cores)


def _look(name: str, timeout: float) -> tuple[BoardInfo, int]:
    """A board of an address, and how many there are."""
    from edgeconv import device
    from edgeconv.tuning.remote import boards_at

    address = device.resolve(name)
    with device.session(address, timeout) as board:
        return board.info, boards_at(address, timeout)


def _tuner(
    model: Path,
    place: _Place,
    options: Any,
    shapes: dict[str, tuple[int, ...]],
    folder: Path | None,
    timeout: float,
    lock: Path | None,
) -> Tuner:
    from edgeconv import api
    from edgeconv.tuning import plan, records
    from edgeconv.tuning.runner import ProcessRunner
    from edgeconv.tuning.tuner import Tuner

    items = plan.items(api.import_graph(model, shapes or None), place.target, place.threads)
    return Tuner(
        items,
        plan.with_threads(place.target, place.threads),
        options,
        ProcessRunner(place.threads, place.addresses, timeout, lock=lock),
        records.user_folder() if folder is None else folder,
        cpu_model=place.cpu_model,
        cores=place.cores,
    )


def _tune(
    tuner: Tuner, model: Path, place: _Place, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Search, finals, the whole network; what came of it."""
    from edgeconv import api
    from edgeconv.tuning import whole
    from edgeconv.tuning.summary import summary

    def compile_(source: Any) -> Any:
        return api.compile_artifact(
            model,
            place.target,
            threads=place.threads,
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
    if not 0 < seconds <= _LONGEST_S:
        raise typer.BadParameter(
            f"'{text}' is no time; 30m, 90s, 1h30m, or none", param_hint="'--budget'"
        )
    return float(seconds)
