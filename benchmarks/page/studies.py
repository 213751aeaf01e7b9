"""Sections about programmes that answer single questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from edgeconv.benchmarks.page import charts, parts
from edgeconv.benchmarks.page.parts import Figure, Section
from edgeconv.benchmarks.page.sections import Contents
from edgeconv.benchmarks.studies import STUDIES, Study


def studies(contents: Contents) -> Iterator[Section]:
    """A section for each result file of such a programme that holds anything."""
    seen: Counter[str] = Counter()
    for programme, study in STUDIES.items():
        for file, content in contents.items():
            if content["programme"] == programme and content["cases"]:
                seen[programme] += 1
                number = f"-{seen[programme]}" if seen[programme] > 1 else ""
                name = study.section + number
                dots = study.dots(content) if study.dots is not None else {}
                figures = [_figure(name, study, dots)] if dots else []
                tables = [
                    parts.table(f"{name}-{i}", t.titles, t.rows, note=file)
                    for i, t in enumerate(study.tables(content), 1)
                ]
                long = study.every(content)
                tables.append(
                    parts.folded(
                        f"All {len(long.rows)} rows", parts.table(name, long.titles, long.rows)
                    )
                )
                yield Section(name, study.title, study.text, "".join(tables), figures)


def _figure(name: str, study: Study, dots: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    rows = {
        f"{title} ({len(found)})": [charts.Dot(r, f"{case}: {r:.2f}") for case, r in found]
        for title, found in dots.items()
    }
    return Figure(
        f"{name}-strips",
        f"Each dot is a case: {study.axis}; the bar is the geometric mean. Above 1, in blue, is "
        "better.",
        lambda width: charts.strips(rows, width, study.title, study.axis),
    )
