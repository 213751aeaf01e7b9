"""Sections about layers and networks: what the numbers in result files look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeconv.benchmarks import tabulate
from edgeconv.benchmarks.cases import traffic
from edgeconv.benchmarks.page import charts, parts
from edgeconv.benchmarks.page.charts import Axes, Bar, Cell, Point, Series
from edgeconv.benchmarks.page.parts import Figure, Section
from edgeconv.benchmarks.page.svg import number
from edgeconv.benchmarks.peers import OWN, PEERS
from edgeconv.benchmarks.records import Case
from edgeconv.benchmarks.summary import (
    Engines,
    fastest_other,
    geometric_mean,
    ratio_to_own,
    times,
)
from edgeconv.errors import ShapeError
from edgeconv.workload import Conv2d

Contents = Mapping[str, Mapping[str, Any]]
"""Result files by name."""

MANY = 20  # rows of a table that a reader opens


@dataclass(frozen=True)
class Measured:
    """One case in one mode, and the file it is from."""

    file: str
    key: str
    case: Case
    mode: str
    engines: Engines
    peak: float | None

    @property
    def title(self) -> str:
        """What it is called in tables."""
        mode = f" ({self.mode})" if self.mode == "chain" and "chain" not in self.key else ""
        return f"{self.key.removesuffix(', 1 thread')}{mode}"

    @property
    def peer(self) -> str | None:
        """The fastest other engine."""
        return fastest_other(self.engines)

    @property
    def ratio(self) -> float | None:
        """Fastest other / edgeconv, by paired rounds where they are kept."""
        return None if self.peer is None else ratio_to_own(self.engines, self.peer)

    @property
    def conv(self) -> Conv2d | None:
        """The convolution, if the case is a layer."""
        try:
            return Conv2d.parse(self.case["layer"]) if "layer" in self.case else None
        except ShapeError:
            return None

    @property
    def flops(self) -> float | None:
        """Operations of one run; older files count one layer of a chain."""
        count: float | None = self.case.get("flops")
        if count and "measurements" in self.case and self.mode == "chain":
            return 4 * count
        return count

    @property
    def bytes(self) -> float | None:
        """Bytes moved at least."""
        if "bytes" in self.case or self.conv is None:
            value: float | None = self.case.get("bytes")
            return value
        return traffic(self.conv) * (4 if self.mode == "chain" else 1)


def measured(contents: Contents) -> list[Measured]:
    """Everything that has times of engines."""
    return [
        Measured(file, key, case, mode, engines, tabulate.peak_of(content, case))
        for file, content in contents.items()
        for key, case in content["cases"].items()
        for mode, engines in tabulate.measurements(case).items()
        if engines
    ]


def distinct(found: Sequence[Measured]) -> list[Measured]:
    """Each once: the base layer of a scaling is on all its axes, and a layer that can't be chained
    has the same times in both modes.
    """
    unique: dict[object, Measured] = {}
    for m in found:
        on_axis = "axis" in m.case
        name = m.key.partition(": ")[2] if on_axis else m.key
        unique.setdefault((m.file, name, () if on_axis else tuple(times(m.engines).items())), m)
    return list(unique.values())


def note(title: str, engine: str, found: Mapping[str, Any]) -> str:
    """What a pointer reads on a mark."""
    low, high = found.get("interval_ms", (found["median_ms"],) * 2)
    text = f"{PEERS[engine].title}, {title}: {number(found['median_ms'])} ms"
    return f"{text} ({number(low)} to {number(high)})" if high > low else text


def _series(points: Sequence[tuple[float, Measured]]) -> list[Series]:
    """A line for each engine, of cases by their place on the x axis."""
    ordered = sorted(points, key=lambda p: p[0])
    found = []
    for engine in parts.known(n for _, m in ordered for n in times(m.engines)):
        line = []
        for x, m in ordered:
            e = m.engines.get(engine, {})
            if "median_ms" in e:
                low, high = e.get("interval_ms", (e["median_ms"],) * 2)
                line.append(Point(x, e["median_ms"], low, high, note(m.title, engine, e)))
        found.append(Series(engine, PEERS[engine].title, line))
    return found


def groups(found: Sequence[Measured]) -> Iterator[Section]:
    """Latency by group count, a chart for each layer otherwise the same; and the heat map."""
    cases = [m for m in found if "groups" in m.case and m.conv is not None]
    if not cases:
        return
    by_layer: dict[str, list[Measured]] = {}
    for m in cases:
        by_layer.setdefault(_but_groups(m), []).append(m)
    figures = [_by_groups(name, members) for name, members in by_layer.items() if len(members) > 1]
    yield Section(
        "groups",
        "Latency by group count",
        "One convolution, its channels cut into more and more groups: the work falls with each "
        "step. Whiskers are 95 % intervals of the median.",
        layers_table("latency-by-groups", cases),
        figures,
    )
    if len(by_layer) > 1:
        yield _heat(cases)


def _but_groups(m: Measured) -> str:
    """What the cases of one chart have in common."""
    text = str(m.conv).rpartition(" g")[0]
    threads = int(m.case.get("threads", 1))
    return f"{text}{', chain of 4' if m.mode == 'chain' else ''}" + (
        f", {threads} threads" if threads > 1 else ""
    )


def _by_groups(name: str, members: Sequence[Measured]) -> Figure:
    series = _series([(float(m.case["groups"]), m) for m in members])
    names = {float(m.case["groups"]): _group_name(m) for m in members}
    axes = Axes("groups", "ms, lower is better", names)
    return Figure(
        f"groups-{_slug(name)}",
        f"{name}, by group count; dw: depthwise.",
        lambda width: charts.lines(series, axes, width, f"Latency by group count of {name}"),
        [s.engine for s in series],
    )


def _group_name(m: Measured) -> str:
    return "dw" if m.case["groups"] == m.case["channels"] > 1 else str(m.case["groups"])


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text).split())


def _heat(cases: Sequence[Measured]) -> Section:
    ordered = sorted(cases, key=lambda m: (_group_name(m) == "dw", m.case["groups"]))
    cells = []
    for m in ordered:
        if m.peer is not None and m.ratio is not None:
            row = f"{m.case['channels']} × {m.case['size']}²"
            text = f"{m.title}: {PEERS[m.peer].title} / edgeconv = {m.ratio:.2f}"
            cells.append(Cell(row, _group_name(m), m.ratio, text))
    columns = list(dict.fromkeys(c.column for c in cells))
    cells.sort(key=lambda c: int(c.row.split()[0]))
    title = "Speed-up by channels and groups"
    figure = Figure(
        "speed-up",
        "Time of the fastest other engine / time of edgeconv, by channels × map (rows) and groups.",
        lambda width: charts.heat_map(cells, columns, width, title, "groups"),
    )
    text = "Above 1, in blue, edgeconv is faster than every other engine measured."
    return Section("speed-up", title, text, "", [figure])


def layers_table(name: str, cases: Sequence[Measured]) -> str:
    """Medians of all engines, edgeconv's speed, and the ratio to the fastest other."""
    engines = parts.known(n for m in cases for n in times(m.engines))
    titles = ["case", *(f"{PEERS[n].title} ms" for n in engines), "fastest other / edgeconv"]
    titles += ["95 % interval", "GFLOP/s", "% of peak", "MiB moved"]
    return parts.table(name, titles, [_row(m, engines) for m in cases])


def _row(m: Measured, engines: Sequence[str]) -> list[parts.Cell]:
    found = times(m.engines)
    noisy = " (noisy)" if m.case.get("noise", {}).get("noisy") else ""
    ratio, interval = tabulate.against_fastest(m.engines)
    own, flops = found.get(OWN), m.flops
    speed = flops / own / 1e6 if own and flops else None
    share = 100 * speed / m.peak if speed and m.peak else None
    moved = m.bytes / 2**20 if m.bytes else None
    return [
        m.title + noisy,
        *(value(found.get(n)) for n in engines),
        (ratio, m.ratio),
        interval,
        value(speed),
        value(share),
        value(moved),
    ]


def value(found: float | None) -> parts.Cell:
    """A number in a table."""
    return (tabulate.NOTHING, None) if found is None else (number(found), found)


def networks(found: Sequence[Measured]) -> Iterator[Section]:
    """Bars of every engine relative to edgeconv, a chart for each number of threads."""
    cases = [m for m in found if "network" in m.case and OWN in times(m.engines)]
    if not cases:
        return
    figures = []
    for threads in sorted({int(m.case["threads"]) for m in cases}):
        chosen = [m for m in cases if m.case["threads"] == threads]
        once = Counter(m.case["network"] for m in chosen)
        drawn = {
            m.case["network"] + (f" ({m.file})" if once[m.case["network"]] > 1 else ""): _bars(m)
            for m in chosen
        }
        names = parts.known(b.engine for g in drawn.values() for b in g)
        figures.append(_net_figure(drawn, threads, names))
    yield Section(
        "networks",
        "Networks",
        "Latency of whole networks. Bars are times relative to edgeconv's: longer is slower; they "
        "end at 8.",
        layers_table("networks", cases),
        figures,
    )


def _net_figure(drawn: Mapping[str, Sequence[Bar]], threads: int, engines: Sequence[str]) -> Figure:
    count = f"{threads} thread{'s' * (threads > 1)}"
    return Figure(
        f"networks-{threads}",
        f"{count}: time / edgeconv's time, and median ms.",
        lambda width: charts.bars(drawn, width, f"Networks, {count}", "time / edgeconv"),
        engines,
    )


def _bars(m: Measured) -> list[Bar]:
    found = times(m.engines)
    made = []
    for engine in parts.known(found):
        ratio = ratio_to_own(m.engines, engine) or 1.0
        shown = f"{number(found[engine])} ms" + ("" if engine == OWN else f" · {ratio:.2f}")
        tip = note(m.title, engine, m.engines[engine])
        made.append(Bar(engine, PEERS[engine].title, min(ratio, 8.0), shown, tip))
    return made


def classes(found: Sequence[Measured]) -> Iterator[Section]:
    """Ratios of single layers that are no group sweep, a strip for each kind."""
    cases = [
        m
        for m in found
        if m.conv is not None and times(m.engines) and not {"groups", "axis"} & m.case.keys()
    ]
    if not cases:
        return
    rows: dict[str, list[charts.Dot]] = {}
    for m in sorted((m for m in cases if m.ratio is not None), key=_strip):
        rows.setdefault(_strip(m), []).append(
            charts.Dot(m.ratio or 1.0, f"{m.title}: {m.ratio:.2f}")
        )
    rows = {f"{name} ({len(dots)})": dots for name, dots in rows.items()}
    figure = Figure(
        "layers-strips",
        "Each dot is a layer: fastest other / edgeconv; the bar is the geometric mean.",
        lambda width: charts.strips(rows, width, "Layers by kind", "fastest other / edgeconv"),
    )
    table = layers_table("layers", cases)
    yield Section(
        "layers",
        "Layers",
        "Single convolutions against the fastest other engine of each. Right of 1, in blue, "
        "edgeconv is faster.",
        table if len(cases) < MANY else parts.folded(f"All {len(cases)} layers", table),
        [figure] if len(cases) > 1 and rows else [],
    )


def _strip(m: Measured) -> str:
    kind = m.conv.kind.removeprefix("dilated ") if m.conv is not None else ""
    if "class" in m.case:
        kind = m.case["class"].replace("_", ", ")
    return f"{kind}, {m.mode}" if m.mode else kind


def scaling(found: Sequence[Measured]) -> Iterator[Section]:
    """A chart for each axis."""
    cases = [m for m in found if "axis" in m.case]
    figures = []
    for axis in dict.fromkeys(m.case["axis"] for m in cases):
        members = [m for m in cases if m.case["axis"] == axis]
        if len(members) < 2:
            continue
        figures.append(_axis_figure(axis, members))
    if figures:
        yield Section(
            "scaling",
            "Scaling",
            "One layer by threads, by channels (those of a group stay the same), by map size.",
            layers_table("scaling", cases),
            figures,
        )


def _axis_figure(axis: str, members: Sequence[Measured]) -> Figure:
    series = _series([(float(m.case[axis]), m) for m in members])
    axes = Axes(
        axis, "ms, lower is better", {float(m.case[axis]): f"{m.case[axis]}" for m in members}
    )
    same = members[0].case["layer"] if axis == "threads" else "the same otherwise"
    return Figure(
        f"scaling-{axis}",
        f"Latency by {axis}; the layer is {same}.",
        lambda width: charts.lines(series, axes, width, f"Latency by {axis}"),
        [s.engine for s in series],
    )


def against_each(found: Sequence[Measured]) -> list[list[parts.Cell]]:
    """Rows: how edgeconv compares with every single engine, over all cases both have."""
    rows: list[list[parts.Cell]] = []
    for engine in parts.known(n for m in found for n in times(m.engines)):
        if engine == OWN:
            continue
        pairs = [r for m in found if (r := ratio_to_own(m.engines, engine)) is not None]
        if pairs:
            rows.append(
                [
                    PEERS[engine].title,
                    value(float(len(pairs))),
                    value(geometric_mean(pairs)),
                    value(min(pairs)),
                    value(max(pairs)),
                    value(float(sum(p > 1 for p in pairs))),
                ]
            )
    return rows
