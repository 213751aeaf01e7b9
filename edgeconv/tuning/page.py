"""The report of a run as one HTML page with its plot in SVG: no other files, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 760, 300, 60, 44, 14
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; font-size: 13px }
th, td { text-align: left; padding: 3px 10px; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto } code { font-size: 12px }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  th, td { border-color: #444 } svg { filter: invert(0.87) hue-rotate(180deg) } }
"""


def page(found: Mapping[str, Any]) -> str:
    """The page of a summary (see `summary`)."""
    title = f"{found['model']} tuned for {found['target']}"
    facts = [
        ("CPU", f"{found['cpu_model']} ({found['cpu']}), {found['threads']} threads"),
        ("whole network", network_text(found["network"])),
        (
            "kernels, alone",
            f"{found['speedup_of_kernels']:.2f} times the default's speed",
        ),
        ("time", f"{found['seconds']:.0f} s for {found['trials']} trials"),
        ("failures", f"{found['failures']}"),
    ]
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n<table>{rows}</table>\n"
        f"<h2>Best so far</h2>\n{plot(found['history'])}\n"
        f"<h2>Layers</h2>\n{_layers(found['tasks'])}\n{_failures(found['tasks'])}</html>\n"
    )


def network_text(network: Mapping[str, Any] | None) -> str:
    """The end-to-end result in words."""
    if network is None:
        return "unchanged: the default knobs were kept everywhere"
    if "untimed" in network:
        return f"not timed: {network['untimed']}; outputs agree to {network['error']:.1g}"
    return (
        f"{network['before_ms']:.3f} ms before, {network['after_ms']:.3f} ms after: "
        f"{network['speedup']:.3f} ± {network['noise']:.3f} times as fast, measured in turns; "
        f"outputs agree to {network['error']:.1g}"
    )


def plot(points: Sequence[Mapping[str, Any]]) -> str:
    """Speed of the kernels over that of the default knobs, as seconds pass."""
    if not points:
        return "<p>Nothing was measured.</p>"
    end = max(p["seconds"] for p in points) or 1.0
    top = 1 + max(0.05, 1.15 * (max(p["speedup"] for p in points) - 1))

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _MARGIN) * seconds / end

    def y(speed: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _MARGIN) * (speed - 1) / (top - 1)

    line = f"M{x(0):.1f},{y(1):.1f}"
    for p in points:
        line += f"H{x(p['seconds']):.1f}V{y(p['speedup']):.1f}"
    grid = ""
    for i in range(5):
        speed, seconds = 1 + (top - 1) * i / 4, end * i / 4
        grid += (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _MARGIN}" y1="{y(speed):.1f}" y2="{y(speed):.1f}" '
            f'stroke="#ccc"/><text x="{_LEFT - 8}" y="{y(speed) + 4:.1f}" text-anchor="end">'
            f"{speed:.2f}</text>"
            f'<text x="{x(seconds):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{seconds:.0f}</text>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" font-size="12" '
        f'font-family="system-ui, sans-serif" aria-label="speed over time">{grid}'
        f'<path d="{line}" fill="none" stroke="#1f6feb" stroke-width="2"/>'
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">seconds</text>'
        f'<text transform="translate(14,{_HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "kernels, times the default's speed</text></svg>"
    )


def _layers(tasks: Sequence[Mapping[str, Any]]) -> str:
    heads = ("#", "Layer", "Workload", "% of time", "default µs", "best µs", "speed-up", "trials")
    head = "".join(f'<th class="{"n" * (i > 2)}">{h}</th>' for i, h in enumerate(heads))
    rows = ""
    for t in tasks:
        layer = t["layers"][0] + (f" +{len(t['layers']) - 1}" if len(t["layers"]) > 1 else "")
        knobs = " ".join(f"{k}={v}" for k, v in (t["knobs"] or {}).items())
        cells = [
            f"{100 * t['share']:.1f}",
            _number(t["default_us"], "{:,.1f}"),
            _number(t["best_us"], "{:,.1f}"),
            _number(t["speedup"], "{:.2f}"),
            f"{t['trials']} of {t['candidates']}",
        ]
        rows += (
            f'<tr><td class="n">{t["number"]}</td><td>{escape(layer)}</td>'
            f"<td>{escape(t['workload'])}</td>"
            + "".join(f'<td class="n">{c}</td>' for c in cells)
            + f"<td>{escape(t['state'])}</td>"
            f"<td>{escape(t['schedule'] or '')} <code>{escape(knobs)}</code></td></tr>\n"
        )
    return f"<table><tr>{head}<th></th><th>Schedule</th></tr>\n{rows}</table>"


def _failures(tasks: Sequence[Mapping[str, Any]]) -> str:
    items = [
        f"<li>{escape(t['layers'][0])}: <code>{escape(f['candidate'])}</code>: "
        f"{escape(f['why'])}</li>"
        for t in tasks
        for f in t["failures"]
    ]
    return f"<h2>Failures</h2>\n<ul>{''.join(items)}</ul>\n" if items else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
