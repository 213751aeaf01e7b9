"""The whole network decides last: records that lose in it, or spoil it, are taken back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeconv.tuning import records, whole
from edgeconv.tuning.network import WRONG, Comparison
from edgeconv.tuning.page import network_text
from edgeconv.tuning.plan import Options
from edgeconv.tuning.tuner import Tuner
from tests.tuning.making import device
from tests.tuning.pretend import Pretend
from tests.tuning.test_tuner import ITEMS

LAYERS = [SimpleNamespace(name=name, source=(name,)) for item in ITEMS for name in item.layers]


class Artifact:
    """A compiled network as far as the comparison looks at it."""

    manifest = SimpleNamespace(layers=LAYERS)

    def save(self, path: Path) -> None:
        path.touch()


@dataclasses.dataclass
class Judged(Pretend):
    """A runner with prepared comparisons."""

    comparisons: list[Comparison] = dataclasses.field(default_factory=list)

    def compare(self, before: Path, after: Path) -> Comparison:
        assert before.exists()
        assert after.exists()
        return self.comparisons.pop(0)


def comparison(after: float, *layers: float, **changes: Any) -> Comparison:
    """Before, the network takes 10 ms and each layer 10 µs."""
    steps = (10.0,) * len(LAYERS)
    values = dict(error=0.0, before_ms=(10.0,) * 9, after_ms=(after,) * 9, before_steps_us=steps)
    return Comparison(**{**values, "after_steps_us": layers or steps, **changes})  # type: ignore[arg-type]


def judged(folder: Path, *found: Comparison) -> tuple[Tuner, Comparison | None]:
    """A tuned network (layers a, b b, c c c) and what came of its comparisons."""
    tuner = Tuner(ITEMS, device(), Options(trials=48), Judged(comparisons=[*found]), folder)
    tuner.run()
    result = whole.check_network(tuner, lambda source: Artifact())  # type: ignore[arg-type,return-value]
    tuner.close()
    assert not tuner.runner.comparisons  # type: ignore[attr-defined]
    return tuner, result


def kept(tuner: Tuner, folder: Path) -> list[bool]:
    """Which tasks have a record with other knobs than the default's, as `compile` finds them."""
    source = records.load(device(), [folder])
    found = []
    for state in tuner.states:
        tuned = source.find(state.item.task, device(), False)
        assert tuned is not None
        own = state.search.default
        found.append((tuned.family.name, tuned.knobs) != (own.family, own.knobs))
    return found


def test_a_faster_network_keeps_all(tmp_path: Path) -> None:
    tuner, found = judged(tmp_path, comparison(8.0))
    assert kept(tuner, tmp_path) == [True] * 3
    assert found is not None
    assert found.speedup == pytest.approx(1.25)
    known = whole.known_comparison(tuner)
    assert known == {"result": whole.to_json(found)}
    assert "1.250 ± 0.000 times as fast" in network_text(known["result"])


def test_a_layer_that_loses_in_the_network(tmp_path: Path) -> None:
    first = comparison(9.0, 8.0, 15.0, 15.0, 8.0, 8.0, 8.0)
    tuner, found = judged(tmp_path, first, comparison(8.5))
    assert kept(tuner, tmp_path) == [True, False, True]
    assert found is not None
    assert found.after_ms[0] == 8.5


def test_a_slower_network_keeps_the_defaults(tmp_path: Path) -> None:
    """Though no layer by itself shows why."""
    tuner, found = judged(tmp_path, comparison(11.0))
    assert kept(tuner, tmp_path) == [False] * 3
    assert found is None


def test_a_wrong_network_keeps_the_defaults_and_says_so(tmp_path: Path) -> None:
    tuner, found = judged(tmp_path, comparison(5.0, error=0.5, untimed=WRONG))
    assert kept(tuner, tmp_path) == [False] * 3
    assert "the outputs differ" in network_text(whole.to_json(found))


def test_an_emulated_board_is_not_timed(tmp_path: Path) -> None:
    tuner, found = judged(tmp_path, Comparison(0.0, untimed="emulated"))
    assert kept(tuner, tmp_path) == [True] * 3
    assert network_text(whole.to_json(found)) == "not timed: emulated; outputs agree to 0"


def test_records_somebody_removed_are_made_again(tmp_path: Path) -> None:
    tuner, _ = judged(tmp_path, comparison(8.0))
    for path in records.files_in(tmp_path):
        path.unlink()
    runner = Judged()
    again = Tuner(ITEMS, device(), Options(trials=48), runner, tmp_path)
    again.run()
    again.close()
    assert runner.finals == 3
    assert not runner.measured
    assert kept(again, tmp_path) == [True] * 3
    assert tuner.trials == again.trials
