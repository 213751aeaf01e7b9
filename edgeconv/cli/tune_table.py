"""What `edgeconv tune` shows while it works, and its table at the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from edgeconv.cli import output as out
from edgeconv.cli.tables import layout

if TYPE_CHECKING:
    from edgeconv.tuning.tuner import Tuner

Watch = Callable[["Tuner"], None]
_COLUMNS = [
    out.Column("#", number=True),
    out.Column("Layer"),
    out.Column("Shapes", drop=1),
    out.Column("% of time", number=True),
    out.Column("Trials", number=True),
    out.Column("Failed", number=True, drop=2),
    out.Column("Default µs", number=True, drop=3),
    out.Column("Best µs", number=True),
    out.Column("Speed-up", number=True),
]


@contextlib.contextmanager
def watching(quiet: bool) -> Iterator[Watch]:
    """A live table on a terminal, a line for each batch elsewhere, nothing if `quiet`."""
    if quiet:
        yield lambda tuner: None
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda tuner: live.update(_picture(tuner, console), refresh=True)


class _Lines:
    """For logs: a line when a batch or a final is over."""

    def __init__(self) -> None:
        self._last: object = None

    def __call__(self, tuner: Tuner) -> None:
        done = (tuner.trials, sum(s.final_at > 0 for s in tuner.states))
        if done == self._last:
            return
        self._last = done
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        console.print(Text(f"{_status(tuner)}; {out.printable(tuner.now)}"), soft_wrap=True)


def _status(tuner: Tuner) -> str:
    return (
        f"{clock(tuner.spent)} spent, at most {clock(tuner.eta_s)} left; "
        f"{out.plural(tuner.trials, 'trial')}; kernels {tuner.speedup:.3f} times as fast"
    )


def _picture(tuner: Tuner, console: Console) -> Text:
    rows = []
    room = max(3, console.height - 5)
    states = sorted(tuner.states, key=tuner.share, reverse=True)
    for s in states[:room]:
        us = s.default_us
        rows.append(
            [
                s.item.number,
                s.item.name,
                s.item.workload,
                f"{100 * tuner.share(s):.1f}",
                "before" if s.skipped else s.search.tried,
                len(s.failures) or "",
                "" if us is None else f"{us:,.1f}",
                "" if us is None else f"{us * s.best_ratio:,.1f}",
                "failed" if s.fault else "" if us is None else f"{1 / s.best_ratio:.2f}",
            ]
        )
    lines = layout(_COLUMNS, rows, None, console.width - 1)
    if len(states) > room:
        lines.append(Text(f"… and {len(states) - room} more tasks"))
    lines.append(Text(_status(tuner), style="bold"))
    lines.append(Text(out.printable(tuner.now)))
    return Text("\n").join(lines)


def print_result(found: Mapping[str, Any]) -> None:
    """The table of tasks at the end."""
    rows = []
    for t in found["tasks"]:
        more = len(t["layers"]) - 1
        rows.append(
            [
                t["number"],
                t["layers"][0] + (f" +{more}" if more else ""),
                t["workload"],
                f"{100 * t['share']:.1f}",
                t["trials"],
                len(t["failures"]) or "",
                "" if t["default_us"] is None else f"{t['default_us']:,.1f}",
                "" if t["best_us"] is None else f"{t['best_us']:,.1f}",
                t["speedup"] and f"{t['speedup']:.2f}",
                t["state"],
                t["schedule"] or "",
                " ".join(f"{k}={v}" for k, v in (t["knobs"] or {}).items()),
            ]
        )
    columns = [
        *_COLUMNS,
        out.Column("Result"),
        out.Column("Schedule", below=True),
        out.Column("Knobs", below=True),
    ]
    out.table(columns, rows)


def clock(seconds: float) -> str:
    """ "1:02:03", "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
