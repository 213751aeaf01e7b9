"""The page of charts: what is drawn, and that a real browser draws it, sorts it, and is silent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeconv.benchmarks import page, report
from edgeconv.benchmarks.page import charts, files, palette, parts, svg
from edgeconv.benchmarks.peers import PEERS
from edgeconv.errors import EdgeconvError
from tests.benchmarks.results import content, group_sweep, layer, networks

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def contents() -> dict[str, Any]:
    """Result files of every kind that has charts."""
    grouped, depthwise = (f"8x4x4->8 k3x3 s1x1 p1,1,1,1 d1x1 g{groups}" for groups in (2, 8))
    medians = {"edgeconv": 1.0, "onnxruntime": 1.5}
    layers = {
        f"{text}, 1 thread": layer(text, {**medians, "edgeconv": ms})
        for text, ms in ((grouped, 1.0), (depthwise, 2.0))
    }
    axis = {
        f"size: {size}": layer(grouped, medians, axis="size", size=size, channels=8)
        for size in (4, 8)
    }
    return {
        "groups.json": group_sweep(),
        "nets.json": networks(),
        "layers.json": content("layers", layers),
        "scaling.json": content("scaling", axis),
    }


def charts_by_file() -> dict[str, str]:
    """The charts of `contents` as SVG."""
    return {chart.file: chart.drawing for chart in page.draw_charts(contents())}


@pytest.fixture(scope="module")
def made() -> str:
    return page.write_page(contents())


def test_nothing_is_fetched(made: str) -> None:
    addresses = set(re.findall(r"[a-z]+://[^\"'\s<]*", made))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert '<link rel="icon" href="data:,">' in made
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=|@import|url\(", made)


def test_every_section_is_there_and_linked(made: str) -> None:
    ids = re.findall(r'<section id="([\w-]+)"', made)
    assert ids == [
        *("summary", "groups", "speed-up", "networks", "profile", "layers", "roofline"),
        *("scaling", "method"),
    ]
    assert re.findall(r'<a href="#([\w-]+)"', made) == ids


def test_names_from_files_are_escaped(made: str) -> None:
    assert "A &lt;CPU&gt;" in made
    assert "A <CPU>" not in made
    assert "ended with &lt;status&gt; 1" in made


def test_the_summary_counts(made: str) -> None:
    cards = re.findall(r'<div class="card"><b>([^<]+)</b>', made)
    # ratios: 2 · (2, 0.5, 4), 1.5 (net), 1.5 and 0.75 (layers), 1.5 · 2 (axis)
    assert cards[1] == "8 of 11"
    assert cards[0] == f"{(16 * 1.5 * 1.5 * 0.75 * 1.5**2) ** (1 / 11):.2f}×"
    assert cards[2] == "2"


def test_lines_have_a_mark_for_each_group_count() -> None:
    drawn = charts_by_file()
    name = "groups-16x8x8-16-k3x3-s1x1-p1-1-1-1-d1x1.svg"
    root = ElementTree.fromstring(drawn[name])
    spaces = {"s": "http://www.w3.org/2000/svg"}
    lines = root.findall(".//s:polyline", spaces)
    assert len(lines) == 3
    assert all(len(line.attrib["points"].split()) == 3 for line in lines)
    notes = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(n is not None and n.startswith("edgeconv, 16x8x8->16") for n in notes)
    ticks = [t.text for t in root.findall(".//s:text[@class='tick']", spaces)]
    assert ticks[-3:] == ["1", "4", "dw"]


def test_all_charts_are_xml_with_colours_of_their_own() -> None:
    drawn = charts_by_file()
    assert {"speed-up.svg", "networks-1.svg", "roofline.svg", "scaling-size.svg"} <= drawn.keys()
    for text in drawn.values():
        root = ElementTree.fromstring(text)
        size = [float(root.attrib[k]) for k in ("width", "height")]
        assert root.attrib["viewBox"] == f"0 0 {size[0]:g} {size[1]:g}"
        panel = root.find("{http://www.w3.org/2000/svg}rect")
        assert panel is not None
        assert [float(panel.attrib[k]) for k in ("width", "height")] == size
        assert "--e-edgeconv:#d9431e" in text
        assert "prefers-color-scheme:dark" in text


def texts(drawing: str) -> list[str]:
    """What a reader sees as text."""
    root = ElementTree.fromstring(drawing)
    return [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]


def test_charts_have_the_names_and_values_of_the_results() -> None:
    drawn = charts_by_file()
    bars = texts(drawn["networks-1.svg"])
    assert bars[bars.index("net") :] == ["net", "edgeconv", "2 ms", "ONNX Runtime", "3 ms · 1.50"]
    cells = texts(drawn["speed-up.svg"])
    assert [c for c in cells if "." in c] == ["2.00", "0.50", "4.00"] * 2
    strips = texts(drawn["layers-strips.svg"])
    assert {"grouped, alone (1)", "depthwise, alone (1)", "fastest other / edgeconv"} <= {*strips}
    lines = texts(drawn["scaling-size.svg"])
    assert lines[-2:] == ["edgeconv", "ONNX Runtime"]


def test_charts_whose_marks_have_no_names_have_a_legend() -> None:
    drawn = charts_by_file()
    assert texts(drawn["roofline.svg"])[-2:] == ["edgeconv", "ONNX Runtime"]
    assert texts(drawn["profile-net-1-thread.svg"])[-3:] == ["dense", "depthwise", "other"]
    engines = list(PEERS)
    figure = parts.Figure("f", "", lambda w: svg.picture("", w, 100, "l"), engines, (), True)
    made = ElementTree.fromstring(files.standalone(figure))
    places = [
        [float(t.attrib[k]) for k in ("x", "y")]
        for t in made.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert len(places) == len(engines)
    rows = sorted({y for _, y in places})
    assert 1 < len(rows) < 4
    assert float(made.attrib["height"]) - 16 < rows[-1] + 12 < float(made.attrib["height"])
    assert all(x < svg.WIDE for x, _ in places)


def test_markdown_shows_the_charts_in_their_sections() -> None:
    drawn = page.draw_charts(contents())
    text = report.markdown(contents(), drawn, "some charts")
    assert re.findall(r"!\[[^]]*\]\(some%20charts/([^)]*)\)", text) == [
        *(c.file for c in drawn if c.section in ("groups", "speed-up")),
        *("networks-1.svg", "profile-net-1-thread.svg"),
        *("layers-strips.svg", "scaling-size.svg", "roofline.svg"),
    ]
    found = dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert "(some%20charts/networks-1.svg)" in found["Networks"]
    assert found["Networks"].index("networks-1.svg") < found["Networks"].index("| net |")
    assert "(some%20charts/roofline.svg)" in found["Roofline"]
    assert "![" not in report.markdown(contents())


def test_every_engine_has_a_colour() -> None:
    assert palette.ENGINES.keys() == PEERS.keys()


def test_the_heat_map_is_blue_above_one_and_red_below() -> None:
    cells = [charts.Cell("r", str(x), x, "") for x in (0.5, 1.0, 4.0, 9.0)]
    drawn = charts.heat_map(cells, [c.column for c in cells], 360, "", "")
    found = re.findall(r'<rect [^>]*class="(up|down)" fill-opacity="([\d.]+)"', drawn)
    assert [kind for kind, _ in found] == ["down", "up", "up", "up"]
    strengths = [float(value) for _, value in found]
    assert strengths[1] < strengths[0] < strengths[2] == strengths[3] == 0.9


def test_depthwise_is_the_last_column_though_wider_layers_have_more_groups() -> None:
    sweep = group_sweep()
    text = "32x4x4->32 k3x3 s1x1 p1,1,1,1 d1x1 g16"
    medians = {"edgeconv": 1.0, "onnxruntime": 3.0}
    sweep["cases"]["more"] = layer(text, medians, channels=32, size=4, groups=16)
    (drawn,) = (c for c in page.draw_charts({"groups.json": sweep}) if c.file == "speed-up.svg")
    assert texts(drawn.drawing)[:5] == ["groups", "1", "4", "16", "dw"]


def test_scales_and_ticks() -> None:
    log = svg.Scale(0.1, 10, 0, 100)
    assert [log(v) for v in (0.1, 1, 10)] == pytest.approx([0, 50, 100])
    assert log.ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert svg.Scale(0.001, 1000, 0, 100).ticks() == pytest.approx([10.0**d for d in range(-3, 4)])
    assert svg.Scale(0, 7, 0, 70, log=False).ticks() == pytest.approx([0, 1, 2, 3, 4, 5, 6, 7])
    assert [svg.number(v) for v in (0, 0.01234, 1, 12.34, 1234.5)] == [
        *("0", "0.0123", "1", "12.3", "1,234")
    ]
    places = svg.spread([50, 51, 10, 99], 10, 0, 100)
    assert places == [50, 60, 10, 99]
    assert svg.spread([95, 96, 97], 10, 0, 100) == [80, 90, 100]


def test_nothing_to_show() -> None:
    with pytest.raises(EdgeconvError, match="nothing to show"):
        page.write_page({"x.json": content("default_study", {})})


# What a reader does: looks, sorts up and down, downloads, hides an engine, changes the theme.
SCRIPT = """
<script>
const found = {};
const visible = (e) => e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().height > 0;
const charts = [...document.querySelectorAll("svg.chart")].filter(visible);
found.charts = charts.length;
found.empty = charts.filter((c) => c.querySelectorAll("rect,circle,polygon").length === 0).length;
found.own = getComputedStyle(document.querySelector(".e-edgeconv .mark")).fill;
found.wide = document.documentElement.scrollWidth > innerWidth;
const table = document.querySelector("#groups table");
const column = (n) => [...table.tBodies[0].rows].map((r) => r.cells[n].textContent);
const head = (n) => table.tHead.rows[0].cells[n].querySelector("button");
const ratios = [...table.tHead.rows[0].cells].findIndex((h) => h.textContent.startsWith("fastest"));
head(ratios).click();
found.up = column(ratios);
head(ratios).click();
found.down = column(ratios);
found.sort = table.tHead.rows[0].cells[ratios].getAttribute("aria-sort");
head(0).click();
found.names = column(0);
found.csv = edgeconvReport.csv(table).split("\\n");
const key = document.querySelector("#groups button.key");
key.click();
const figure = key.closest("figure");
found.hidden = getComputedStyle(figure.querySelector("svg .e-edgeconv")).display;
key.click();
found.shown = getComputedStyle(figure.querySelector("svg .e-edgeconv")).display;
const background = () => getComputedStyle(document.body).backgroundColor;
const themes = [background()];
document.getElementById("theme").click();
themes.push(background());
document.getElementById("theme").click();
themes.push(background());
found.themes = themes;
document.body.setAttribute("data-found", JSON.stringify(found));
</script></body>"""


def browse(path: Path, folder: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
    """(what the script found, what the browser's console said)."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"),
            f"--user-data-dir={folder / 'profile'}",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found: dict[str, Any] = json.loads(match[1].replace("&quot;", '"').replace("&gt;", ">"))
    return found, console


def test_a_browser_draws_and_sorts(made: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(made.replace("</body>", SCRIPT), encoding="utf-8")
    found, console = browse(path, tmp_path, "--window-size=1000,900")
    assert console == []
    assert (found["charts"], found["empty"]) == (8, 0)
    assert found["own"] == "rgb(217, 67, 30)"
    assert not found["wide"]
    assert found["up"] == ["0.50", "0.50", "2.00", "2.00", "4.00", "4.00"]
    assert found["down"] == found["up"][::-1]
    assert found["sort"] == "descending"
    assert [name.split()[0] for name in found["names"]] == ["16x8x8->16"] * 3 + ["32x4x4->32"] * 3
    assert found["csv"][0].startswith("case,edgeconv ms,ONNX Runtime ms,TFLite XNNPACK ms,fastest")
    assert found["csv"][1].startswith('"16x8x8->16 k3x3 s1x1 p1,1,1,1 d1x1 g1",1.0,2.0,5.0,2.0')
    assert len(found["csv"]) == 8
    assert (found["hidden"], found["shown"]) == ("none", "inline")
    assert found["themes"][0] == found["themes"][2] == "rgb(251, 251, 250)"
    assert found["themes"][1] == "rgb(20, 23, 26)"


def test_the_browser_tells_of_errors(tmp_path: Path) -> None:
    path = tmp_path / "faulty.html"
    path.write_text('<body data-found="{}"><script>nosuch()</script></body>', encoding="utf-8")
    _, console = browse(path, tmp_path)
    assert len(console) == 1
    assert "nosuch is not defined" in console[0]


def test_a_phone_shows_the_narrow_charts(made: str, tmp_path: Path) -> None:
    inner = tmp_path / "report.html"
    script = SCRIPT.replace("document.body.setAttribute", "parent.document.body.setAttribute")
    inner.write_text(made.replace("</body>", script), encoding="utf-8")
    path = tmp_path / "phone.html"
    path.write_text(f'<body><iframe src="{inner.name}" width="390" height="800"></iframe></body>')
    found, console = browse(path, tmp_path, "--allow-file-access-from-files")
    assert console == []
    assert (found["charts"], found["empty"], found["wide"]) == (8, 0, False)


def test_one_layer_has_its_table_and_a_layer_on_several_axes_counts_once() -> None:
    text = "8x6x6->8 k3x3 s1x1 p1,1,1,1 d1x1 g1"
    medians = {"edgeconv": 1.0, "onnxruntime": 2.0}
    alone = page.write_page({"a.json": content("layers", {text: layer(text, medians)})})
    assert f"<td>{text.replace('>', '&gt;')}</td>" in alone
    own = page.write_page({"a.json": content("layers", {text: layer(text, {"edgeconv": 1.0})})})
    assert f"<td>{text.replace('>', '&gt;')}</td>" in own
    axes = {
        f"{a}: {text}": layer(text, medians, axis=a, channels=8, size=6)
        for a in ("channels", "size")
    }
    assert "1 of 1" in page.write_page({"s.json": content("scaling", axes)})
