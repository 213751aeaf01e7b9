"""Sections about where the time goes, what a first run costs, and how all was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeconv.benchmarks import cold, paper, peak_memory, tabulate
from edgeconv.benchmarks.noise import MOST_DISTURBED, MOST_DRIFT
from edgeconv.benchmarks.page import charts, parts
from edgeconv.benchmarks.page.charts import Column, Roof, Work
from edgeconv.benchmarks.page.parts import Figure, Section
from edgeconv.benchmarks.page.sections import Contents, Measured, value
from edgeconv.benchmarks.page.svg import element, escape, number
from edgeconv.benchmarks.peers import OWN, PEERS
from edgeconv.benchmarks.statistics import DRAWS
from edgeconv.benchmarks.summary import times

_KINDS = ("dense", "pointwise", "grouped", "depthwise", "other")


def layer_profiles(found: Sequence[Measured]) -> Iterator[Section]:
    """Columns of edgeconv's layers, for the networks that were profiled."""
    figures, bodies = [], []
    for m in found:
        rows = m.case.get("layers")
        if rows:
            drawn = [Column(_kind(r), r["ms"], _tip(r)) for r in rows]
            present = {c.kind for c in drawn}
            figures.append(_profile(m, drawn, [k for k in _KINDS if k in present]))
            bodies.append(parts.folded(f"Layers of {m.title}", _layers(m, rows)))
    if figures:
        yield Section(
            "profile",
            "Where edgeconv's time goes",
            "Each column is a layer, timed alone in its place in the network.",
            "".join(bodies),
            figures,
        )


def _kind(row: Mapping[str, Any]) -> str:
    op = str(row["op"]).removeprefix("dilated ")
    return next((kind for kind in _KINDS if op.startswith(kind)), "other")


def _tip(row: Mapping[str, Any]) -> str:
    speed = f", {number(row['gflops'])} GFLOP/s" if row["gflops"] else ""
    return f"{row['name']}: {row['op']} {row['workload']}, {number(row['ms'])} ms{speed}"


def _profile(m: Measured, drawn: Sequence[Column], kinds: Sequence[str]) -> Figure:
    return Figure(
        f"profile-{m.key.replace(',', '').replace(' ', '-')}",
        f"{m.title}: edgeconv's layers, together {number(sum(c.ms for c in drawn))} ms.",
        lambda width: charts.columns(drawn, width, f"Layers of {m.title}", "ms"),
        kinds=kinds,
        unnamed=True,
    )


def _layers(m: Measured, rows: Sequence[Mapping[str, Any]]) -> str:
    titles = ["layer", "operator", "shapes", "schedule", "ms", "% of time", "GFLOP/s", "% of peak"]
    made: list[list[parts.Cell]] = []
    for r in rows:
        speed = r["gflops"] or None
        cells = [value(r["ms"]), value(100 * r["share"]), value(speed)]
        cells.append(value(100 * r["peak"] if speed else None))
        made.append([r["name"], r["op"], r["workload"], r["schedule"], *cells])
    return parts.table(f"layers-{m.case['network']}", titles, made)


def roofline(found: Sequence[Measured], contents: Contents) -> Iterator[Section]:
    """Speed over arithmetic intensity of everything on one thread."""
    points = []
    for m in found:
        if m.case.get("threads", 1) == 1 and m.flops and m.bytes:
            for engine in (OWN, *([m.peer] if m.peer else [])):
                ms = times(m.engines).get(engine)
                if ms:
                    speed = m.flops / ms / 1e6
                    text = f"{PEERS[engine].title}, {m.title}: {number(speed)} GFLOP/s"
                    points.append(Work(engine, m.flops / m.bytes, speed, text))
    sessions = [s for content in contents.values() for s in content["sessions"]]
    if not points or not sessions:
        return
    peak = max(s["peak_gflops_one_core"] for s in sessions)
    bandwidth = max((s.get("memory_gb_s_one_core", 0.0) for s in sessions), default=0.0)
    roof = Roof(peak, bandwidth or None)
    figure = Figure(
        "roofline",
        "One core. Bytes are those that must move at least once; where data stay in the caches "
        "the sloped roof, a copy through main memory, does not hold. Multiply-adds are counted as "
        "in the direct sum: Winograd convolutions need fewer and can lie above the flat roof.",
        lambda width: charts.roofline(points, roof, width, "Roofline"),
        parts.known(p.engine for p in points),
        unnamed=True,
    )
    text = "edgeconv and the fastest other engine of each case, against what the core can do."
    yield Section("roofline", "Roofline", text, "", [figure])


def cold_starts(contents: Contents) -> Iterator[Section]:
    """Compile time, load time, memory."""
    for name, content in contents.items():
        if content["programme"] == cold.PROGRAMME:
            yield _table_section(
                "cold",
                "Before the first result",
                "Fresh processes that have run a tiny network before; edgeconv loads its artifact, "
                "the others convert and load the ONNX file. Peak memory is growth of the process.",
                cold.table(content),
                name,
            )
        elif content["programme"] == peak_memory.PROGRAMME:
            yield _table_section(
                "memory",
                "Memory",
                "Peak of a process that loads and runs the network, over the same process on a "
                "network of next to nothing, in MiB.",
                _from_markdown(peak_memory.summary(content)),
                name,
            )


def papers(contents: Contents) -> Iterator[Section]:
    """A section for each paper measured."""
    for name, content in contents.items():
        if content["programme"].removeprefix("paper ") in paper.TABLES:
            table = paper.TABLES[content["programme"].removeprefix("paper ")]
            text = f"Claimed: {table.claim} Measured here: {paper.verdict(content)}"
            yield _table_section(table.name, table.title, text, paper.tabulate(content), name)


def _table_section(name: str, title: str, text: str, table: tabulate.Table, file: str) -> Section:
    body = parts.table(name, table.titles, table.rows, note=file)
    return Section(name, title, text, body)


def _from_markdown(text: str) -> tabulate.Table:
    lines = [[c.strip() for c in t.strip("| ").split("|")] for t in text.strip().splitlines()]
    return tabulate.Table(lines[0], lines[2:])


def method(found: Sequence[Measured], contents: Contents) -> Section:
    """How a number came about, on what, and the state of the machine."""
    engines = parts.known(n for m in found for n in m.engines)
    notes = "".join(
        element("li", f"<b>{escape(PEERS[n].title)}</b>: {escape(PEERS[n].note)}") for n in engines
    )
    text = (
        "All engines of a case load the same ONNX file in one process of its own, pinned to as "
        "many cores as threads. In every round each runs a block of calls, in turns that move on; "
        "the first two calls of a block warm up, calls during which another process took the core "
        "do not count. A time is a median; its interval (95 %) is from "
        f"{DRAWS} bootstrap draws of whole rounds; ratios are of paired rounds. An engine's "
        "output was compared with ONNX Runtime's before its time counted. A fixed loop of "
        "multiply-adds runs between the rounds; a case is marked noisy where its time drifts by "
        f"more than {MOST_DRIFT:.0%}, or more than {MOST_DISTURBED:.0%} of the calls were "
        "disturbed."
    )
    body = element("ul", notes, class_="engines") + _failures(found) + _sessions(contents)
    return Section("method", "Method and environment", text, body)


def _failures(found: Sequence[Measured]) -> str:
    rows: list[list[parts.Cell]] = [
        [m.title, PEERS[n].title, str(e["failed"]).splitlines()[0]]
        for m in found
        for n, e in m.engines.items()
        if "failed" in e
    ]
    if not rows:
        return ""
    table = parts.table("failures", ["case", "engine", "reason"], rows)
    return parts.folded(f"Engines without a time: {len(rows)}", table)


def _sessions(contents: Contents) -> str:
    made = []
    for name, content in contents.items():
        boards = "; ".join(tabulate.boards(content))
        for s in content["sessions"]:
            bandwidth = s.get("memory_gb_s_one_core")
            facts = {
                "board": boards,
                "date": s["date"],
                "command": s["command"],
                "commit": s["commit"],
                "CPU": f"{s['cpu']} ({s['llvm_cpu']}), {s.get('cores', '?')} cores",
                "peak": f"{s['peak_gflops_one_core']} GFLOP/s a core"
                + (f", copy {bandwidth} GB/s" if bandwidth else ""),
                "system": f"{s.get('system', '')}, Python {s['python']}",
                "versions": ", ".join(f"{k} {v}" for k, v in s["versions"].items() if v),
                "CPU flags": s.get("flags", ""),
            }
            rows = "".join(
                element("dt", escape(k)) + element("dd", escape(v)) for k, v in facts.items() if v
            )
            made.append(parts.folded(f"{name}, {s['date'][:10]}", element("dl", rows)))
    return "".join(made)
