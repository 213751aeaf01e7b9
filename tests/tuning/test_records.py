"""Records are found for what they were made for, and for nothing else; damage is skipped aloud."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeconv
from edgeconv import strategy
from edgeconv.schedules import FAMILIES
from edgeconv.tuning import keys, lines, records
from edgeconv.tuning.record import Record, from_line
from tests.tuning.making import device, every_kind_of_task, record, structured_tasks, task


@pytest.mark.parametrize("number", range(len(every_kind_of_task())))
def test_tasks_survive_json(number: int) -> None:
    wanted = every_kind_of_task()[number]
    text = json.dumps(keys.task_json(wanted))
    assert keys.task_from_json(json.loads(text)) == wanted


def test_different_tasks_have_different_digests() -> None:
    tasks = every_kind_of_task()
    assert len({keys.task_digest(t) for t in tasks}) == len(tasks)


@pytest.mark.parametrize("family", [f.name for f in FAMILIES])
def test_knobs_of_every_family_survive_a_line(family: str) -> None:
    on, (of,) = device(), [f for f in FAMILIES if f.name == family]
    taken = [
        t
        for groups in (1, 16)
        for size in ((1, 1), (3, 3))
        for c in [task(kernel_size=size, padding=(0, 0, 0, 0), groups=groups)]
        for block in (1, 4, 16)
        for t in [dataclasses.replace(c, data=c.data.with_halo((0,) * 4), out=c.out)]
        for t in [dataclasses.replace(t, data=type(t.data)(block), out=type(t.out)(block))]
        if of.supports(t, on) is None
    ]
    taken += [t for b in (1, 4) for t in structured_tasks(b) if of.supports(t, on) is None]
    assert taken
    found = record(taken[0], on, family)
    assert from_line(found.to_line().encode()) == found


def test_depthwise_branches_have_records() -> None:
    on, branched = device(), structured_tasks(4)[-1]
    assert branched.conv.branches is not None
    found = records.Records([])
    found.add(record(branched, on, "depthwise_branches"))
    tuned = strategy.choose(branched, on, records=found)
    assert tuned.reason.startswith("tuned: 1.20 times")
    assert tuned.knobs != strategy.choose(branched, on).knobs
    foreign = dataclasses.replace(record(), task=branched)
    reason = records.illegal(foreign, on)
    assert reason == (
        "grouped_spatial_pack refuses the task: several depthwise convolutions in one"
    )


def test_the_strategy_takes_a_record_first(tmp_path: Path) -> None:
    made = record()
    records.append(tmp_path, made)
    found = records.load(device(), [tmp_path])
    choice = strategy.choose(made.task, device(), records=found)
    assert choice.knobs == made.knobs != strategy.choose(made.task, device()).knobs
    assert choice.reason == "tuned: 1.20 times the default's speed; 117 trials, 2026-11-21"
    assert choice.refused == strategy.choose(made.task, device()).refused


def changed_profile(**changes: Any) -> dict[str, Any]:
    return {**keys.profile(device()), **changes}


@pytest.mark.parametrize(
    "changes",
    [
        dict(profile=changed_profile(l2_kib=2048)),
        dict(profile=changed_profile(features=["+dotprod"])),
        dict(threads=2),
        dict(task=task(groups=2)),
        dict(source="0" * 16),
        dict(tvm="0.26.0"),
        dict(numerics="exact"),
    ],
    ids=lambda c: next(iter(c)),
)
def test_no_record_for_anything_else(tmp_path: Path, changes: dict[str, Any]) -> None:
    records.append(tmp_path, record(**changes))
    found = records.load(device(), [tmp_path])
    assert found.find(task(), device(), exact=False) is None
    assert not found.faults
    assert len(found.outdated) == ("source" in changes or "tvm" in changes)


def test_an_older_record_of_this_version_beats_a_newer_one_of_another(tmp_path: Path) -> None:
    records.append(tmp_path, record(date="2026-11-20T10:00:00+00:00"))
    records.append(tmp_path, record(source="0" * 16))
    found = records.load(device(), [tmp_path]).record(task(), device(), exact=False)
    assert found is not None
    assert found.date.startswith("2026-11-20")


def test_the_newest_record_wins_over_folders_and_families(tmp_path: Path) -> None:
    on = device()
    records.append(tmp_path / "a", record(date="2026-11-22T10:00:00+00:00", name="winograd"))
    records.append(tmp_path / "b", record(median_us=1.0))
    found = records.load(on, [tmp_path / "b", tmp_path / "a"])
    tuned = found.find(task(), on, exact=False)
    assert tuned is not None
    assert tuned.family.name == "winograd"
    exact = found.find(task(), on, exact=True)
    assert exact is not None
    assert exact.family.name == "grouped_spatial_pack"


def test_another_host_does_not_share_the_folder() -> None:
    assert keys.folder_of(dataclasses.replace(device(), name="host")) == "host-cortex-a72"


def test_knobs_that_are_not_legal_are_reported(tmp_path: Path) -> None:
    wrong = dataclasses.replace(record().knobs, rows=50)
    path = records.append(tmp_path, record(knobs=wrong))
    found = records.load(device(), [tmp_path])
    assert found.find(task(), device(), exact=False) is None
    assert [str(f) for f in found.faults] == [
        f"{path}:1: record skipped: knobs that grouped_spatial_pack does not have for the task"
    ]


def with_field(**changes: Any) -> bytes:
    """A line with other fields and a checksum that fits."""
    data = {**record().to_json(), **changes}
    data = {k: v for k, v in data.items() if v is not None}
    return json.dumps({**data, "sha256": keys.digest(data)}).encode()


GOOD = record().to_line().encode()
DAMAGE: dict[str, tuple[bytes, str]] = {
    "torn": (GOOD[:200], "torn"),
    "torn at its beginning": (GOOD[200:], "not JSON"),
    "empty": (b"", "empty"),
    "blanks": (b"  \t ", "empty"),
    "zeros": (b"\0" * 4096, "not JSON"),
    "random bytes": (bytes(range(128, 256)), "not UTF-8"),
    "half a character": (GOOD[:-2] + b"\xc3", "not UTF-8"),
    "another kind of file": (b"\x89PNG", "not UTF-8"),
    "text": (b"hello", "not JSON"),
    "two records in a line": (GOOD + GOOD, "not JSON"),
    "a list": (b"[1, 2]", "not a JSON object"),
    "another object": (b'{"a": 1}', "record format None"),
    "a newer format": (GOOD.replace(b'"format": 1', b'"format": 2'), "record format 2"),
    "no checksum": (json.dumps(record().to_json()).encode(), "no checksum"),
    "an edited number": (GOOD.replace(b"10.5", b"1.05"), "checksum"),
    "an edited knob": (GOOD.replace(b'"rows": 1', b'"rows": 2'), "checksum"),
    "a flipped bit": (GOOD.replace(b"Cortex", b"Cnrtex"), "checksum"),
    "a field twice": (GOOD.replace(b"{", b'{"family": "winograd", ', 1), "twice"),
    "a field missing": (with_field(median_us=None), "'median_us' is missing"),
    "an unknown field": (with_field(colour="red"), "unknown field 'colour'"),
    "a field of another type": (with_field(trials="many"), "'trials'"),
    "NaN": (GOOD.replace(b"10.5", b"NaN"), "NaN"),
    "an infinite time": (GOOD.replace(b"10.5", b"1e999"), "no numbers"),
    "a time below zero": (with_field(median_us=-1.0), "not a time"),
    "a failed measurement": (with_field(median_us=1e16), "not a time"),
    "an unknown schedule": (with_field(family="magic"), "unknown schedule 'magic'"),
    "unknown knobs": (with_field(knobs={"speed": 1}), "knobs of grouped_spatial_pack"),
    "a knob of another type": (
        with_field(knobs={**record().to_json()["knobs"], "rows": 1.5}),
        "knob 'rows' is 1.5",
    ),
    "no convolution": (with_field(task={"conv": {}}), "no convolution"),
    "another workload": (with_field(workload="1x1x1->1"), "different workloads"),
    "a folder elsewhere": (with_field(folder="../../etc"), "not the name of a folder"),
    "no date": (with_field(date="yesterday"), "not a date"),
    "no threads": (with_field(threads=0), "'threads' is 0"),
    "a merge conflict": (b"<<<<<<< HEAD", "merge conflict"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "too deep": (b'{"a":' * 100_000, "nested"),
    "too long": (b" " * (lines.LONGEST + 1) + GOOD, "too long"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported_and_the_rest_still_loads(tmp_path: Path, name: str) -> None:
    damaged, reason = DAMAGE[name]
    first, last = record(), record(date="2026-11-22T10:00:00+00:00")
    path = records.path_of(tmp_path, first)
    path.parent.mkdir()
    content = [first.to_line().encode(), damaged, last.to_line().encode()]
    path.write_bytes(b"".join(line + b"\n" for line in content))
    stored, faults = records.read_file(path)
    assert [s.record for s in stored] == [first, last]
    assert [s.line for s in stored] == [1, 3]
    (fault,) = faults
    assert (fault.path, fault.line) == (path, 2)
    assert reason in fault.reason


def test_lines_that_end_as_on_windows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "grouped_spatial_pack.jsonl"
    path.write_bytes(GOOD + b"\r\n")
    assert [s.record for s in records.read_file(path)[0]] == [record()]


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    assert records.read_file(tmp_path / "x.jsonl") == ([], [])


def test_a_record_in_the_file_of_another_family(tmp_path: Path) -> None:
    (tmp_path / "winograd.jsonl").write_bytes(GOOD + b"\n")
    stored, (fault,) = records.read_file(tmp_path / "winograd.jsonl")
    assert not stored
    assert fault.reason == "a record of grouped_spatial_pack"


def _a_folder(path: Path) -> None:
    path.mkdir()


def _a_loop(path: Path) -> None:
    path.symlink_to(path)


def _a_pipe(path: Path) -> None:
    os.mkfifo(path)


def _unreadable(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path.write_bytes(GOOD)
    path.chmod(0)


@pytest.mark.parametrize("make", [_a_folder, _a_loop, _a_pipe, _unreadable])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    records.append(tmp_path, record())
    wrong = tmp_path / "raspberry-pi-4" / "winograd.jsonl"
    make(wrong)
    found = records.load(device(), [tmp_path])
    assert [(f.path, f.line) for f in found.faults] == [(wrong, 0)]
    assert found.find(task(), device(), exact=False) is not None


def test_after_a_torn_line_records_begin_anew(tmp_path: Path) -> None:
    path = records.append(tmp_path, record())
    with path.open("ab") as file:
        file.write(GOOD[:100])
    records.append(tmp_path, record(trials=118))
    stored, faults = records.read_file(path)
    assert [s.record.trials for s in stored] == [117, 118]
    assert [f.line for f in faults] == [2]


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = records.append(tmp_path, record())
    write = os.write
    monkeypatch.setattr(lines.os, "write", lambda file, data: write(file, data[:50]))
    with pytest.raises(records.RecordError, match=f"can't write {path}: no space"):
        records.append(tmp_path, record(trials=118))
    assert path.read_bytes() == GOOD + b"\n"


def _append_many(folder: Path, writer: int) -> None:
    for number in range(100):
        records.append(folder, record(trials=1 + 1000 * writer + number))


def test_several_writers_at_once(tmp_path: Path) -> None:
    """Another process rewrites the file meanwhile, as `prune` does."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(tmp_path, i)) for i in range(3)]
    path = records.append(tmp_path, record())
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        known, _ = lines.read_lines(path)
        lines.rewrite(path, known, known)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    stored, faults = records.read_file(path)
    assert not faults
    wanted = {117} | {1 + 1000 * i + n for i in range(3) for n in range(100)}
    assert {s.record.trials for s in stored} == wanted
    assert not [p for p in path.parent.iterdir() if p != path]


def test_shipped_records_are_whole() -> None:
    """Every line is a record, in the folder and the file it belongs into."""
    shipped = Path(edgeconv.__file__).resolve().parent.parent / "tuning_logs"
    paths = records.files_in(shipped)
    assert paths
    for path in paths:
        stored, faults = records.read_file(path)
        assert stored
        assert faults == []
        assert {records.path_of(shipped, s.record) for s in stored} == {path}


def test_the_hash_of_a_source_ignores_what_does_not_run() -> None:
    source = '"""Module."""\n\nX = "#1"  # one\n\ndef f():\n    """What."""\n    return X\n'
    assert keys.code_of(source) == 'X = "#1"\ndef f():\n    return X\n'


def test_every_family_has_its_own_hash() -> None:
    assert len({keys.source_hash(f) for f in FAMILIES}) == len(FAMILIES)


def test_newest_keeps_one_of_each_kind() -> None:
    made: list[Record] = [
        record(date="2026-11-20T10:00:00+00:00"),
        record(name="winograd"),
        record(numerics="exact"),
        record(threads=2),
    ]
    stored = [records.Stored(r, Path("x"), i) for i, r in enumerate(made)]
    assert [s.record for s in records.newest(stored)] == made[1:]
