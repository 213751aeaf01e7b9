"""The page as a whole, and the charts as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeconv.benchmarks import tabulate
from edgeconv.benchmarks.page import details, files, parts, sections, studies, style
from edgeconv.benchmarks.page.files import Chart
from edgeconv.benchmarks.page.parts import Section
from edgeconv.benchmarks.page.sections import Contents, Measured
from edgeconv.benchmarks.page.svg import escape
from edgeconv.benchmarks.peers import OURS, PEERS
from edgeconv.benchmarks.summary import geometric_mean, times
from edgeconv.errors import EdgeconvError

_FOLDER = Path(__file__).resolve().parent


def write_page(contents: Contents) -> str:
    """The HTML of result files.

    Args:
        contents: parsed files by name.

    Raises:
        EdgeconvError: nothing in them can be shown.
    """
    shown = _sections(contents)
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in shown)
    body = (
        f"<header>{_heading(contents)}<nav>{links}</nav></header>"
        f"<main>{''.join(s.html() for s in shown)}</main>"
    )
    script = (_FOLDER / "script.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>edgeconv benchmark</title><style>{style.of_page()}</style></head>"
        f"<body>{body}<script>{script}</script></body></html>\n"
    )


def draw_charts(contents: Contents) -> list[Chart]:
    """The page's charts as SVG files, each with its own colours for light and dark; none where the
    files have nothing that is drawn.
    """
    return files.charts([*_all(sections.measured(contents), contents)])


def _sections(contents: Contents) -> list[Section]:
    found = sections.measured(contents)
    shown = [*_all(found, contents)]
    if not shown:
        raise EdgeconvError("these files hold nothing to show; make some with `edgeconv bench`")
    summary = _summary(found)
    return [*([summary] if summary else []), *shown, details.method(found, contents)]


def _all(found: Sequence[Measured], contents: Contents) -> Iterator[Section]:
    yield from sections.groups(found)
    yield from sections.networks(found)
    yield from details.layer_profiles(found)
    yield from sections.classes(found)
    yield from details.roofline(found, contents)
    yield from sections.scaling(found)
    yield from details.papers(contents)
    yield from studies.studies(contents)
    yield from details.cold_starts(contents)


def _summary(found: Sequence[Measured]) -> Section | None:
    found = sections.distinct(found)
    ratios = [m.ratio for m in found if m.ratio is not None]
    if not ratios:
        return None
    noisy = sum(bool(m.case.get("noise", {}).get("noisy")) for m in found)
    engines = parts.known(n for m in found for n in times(m.engines) if n not in OURS)
    items = [
        (f"{geometric_mean(ratios):.2f}×", "fastest other engine / edgeconv, geometric mean"),
        (
            f"{sum(r > 1 for r in ratios)} of {len(ratios)}",
            "cases in which edgeconv is the fastest",
        ),
        (str(len(engines)), "other engines: " + ", ".join(PEERS[n].title for n in engines)),
    ]
    if noisy:
        items.append((str(noisy), "cases measured while the machine was noisy"))
    titles = ["engine", "cases", "its time / edgeconv, geometric mean", "least", "most"]
    titles.append("edgeconv faster in")
    rows = sections.against_each(found)
    body = parts.cards(items) + parts.table("engines", titles, rows)
    text = "Above 1 edgeconv is faster. Every case counts once, whatever its size, noisy ones too."
    return Section("summary", "Summary", text, body)


def _heading(contents: Contents) -> str:
    sessions = [s for content in contents.values() for s in content["sessions"]]
    boards = [b for content in contents.values() for b in tabulate.boards(content)]
    here = [
        f"{s['cpu']} ({s['llvm_cpu']})"
        for content in contents.values()
        if not tabulate.boards(content)
        for s in content["sessions"]
    ]
    machines = dict.fromkeys([*boards, *here])
    dates = sorted({s["date"][:10] for s in sessions})
    commits = dict.fromkeys(str(s["commit"]) for s in sessions if s["commit"])
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else ""
    facts = [", ".join(machines), when, f"commit {', '.join(commits)}" if commits else ""]
    line = " · ".join(escape(f) for f in facts if f)
    toggle = (
        '<button id="theme" type="button" aria-label="Switch between light and dark">◐</button>'
    )
    return f"<h1>edgeconv benchmark</h1>{toggle}<p>{line}</p>"
