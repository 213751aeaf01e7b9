"""What `edgeconv tune` shows while it works."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from edgeconv.cli.tune_table import _picture, clock, watching
from edgeconv.tuning.plan import Options
from edgeconv.tuning.tuner import Tuner
from tests.tuning.making import device
from tests.tuning.pretend import Pretend
from tests.tuning.test_tuner import ITEMS


def made(folder: Path) -> Tuner:
    return Tuner(ITEMS, device(), Options(trials=32), Pretend(), folder)


@pytest.mark.parametrize("width", [60, 200])
def test_the_live_table(tmp_path: Path, width: int) -> None:
    """Tasks by their share of the time, trials, best against default, time left; never too wide."""
    pictures = []
    tuner = made(tmp_path)
    console = Console(width=width, height=30)
    tuner.watch = lambda t: pictures.append(_picture(t, console).plain)
    tuner.run()
    tuner.close()
    assert len(pictures) > 9
    last = pictures[-1].splitlines()
    assert all(len(line) < max(width, 120) for line in last)
    times = {str(s.item.number): len(s.item.layers) * (s.default_us or 0) for s in tuner.states}
    by_time = sorted(times, key=times.__getitem__, reverse=True)
    assert [line.split()[0] for line in last[:4]] == ["#", *by_time]
    assert all(" 32 " in line for line in last[1:4])
    assert "96 trials; kernels" in last[-2]
    assert last[-1].startswith("final of ")
    assert "at most" in pictures[0]


def test_a_low_terminal_shows_the_first_tasks(tmp_path: Path) -> None:
    tuner = made(tmp_path)
    text = _picture(tuner, Console(width=100, height=4)).plain
    tuner.close()
    assert "more tasks" not in text  # three fit
    assert len(text.splitlines()) == 6


def test_lines_for_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuner = made(tmp_path)
    with watching(quiet=False) as watch:
        tuner.watch = watch
        tuner.run()
    tuner.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10  # before the first batch, after each of six, after three finals
    assert "16 trials" in lines[1]


def test_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuner = made(tmp_path)
    with watching(quiet=True) as watch:
        tuner.watch = watch
        tuner.run()
    tuner.close()
    assert capsys.readouterr().err == ""


def test_clocks() -> None:
    assert [clock(s) for s in (0, 59.6, 754, 3723)] == ["0:00", "1:00", "12:34", "1:02:03"]
