"""`edgeconv records`, and the options of `compile` and `explain` that have to do with records."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeconv import api, artifact, build
from edgeconv.tuning import records
from edgeconv.tuning.candidates import space
from edgeconv.workload import ConvTask
from tests.schedules.pairs import cases as pair_cases
from tests.tuning.making import device, record
from tests.tuning.test_pairs import APART
from tests.tuning.test_pairs import record as pair_record
from tests.tuning.test_pools import record as pool_record
from tests.tuning.test_pools import tasks as pools

TARGET = ("--target", "raspberry-pi-4", "--threads", 1)


@pytest.fixture(scope="module")
def stem(model: Path) -> ConvTask:
    """The task of the model's first layer."""
    on = device()
    return dict(build.tunable_tasks(api.import_graph(model), on, 1))["stem"]


def layer(shown: dict[str, object], name: str) -> dict[str, str]:
    """A layer of what `explain --json` printed."""
    layers = shown["layers"]
    assert isinstance(layers, list)
    return next(row for row in layers if row["name"] == name)


def test_explain_shows_the_record(cli, model: Path, stem: ConvTask, tmp_path: Path) -> None:
    records.append(tmp_path, record(stem))
    found = cli("explain", model, *TARGET, "--records", tmp_path, "--json").json
    assert layer(found, "stem")["reason"].startswith("tuned: 1.20 times")
    assert layer(found, "mix")["reason"].startswith("default knobs")
    again = cli("explain", model, *TARGET, "--no-records", "--json").json
    assert layer(again, "stem")["reason"].startswith("default knobs")


def test_records_of_the_user_are_used_without_being_asked(
    cli, model: Path, stem: ConvTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    records.append(records.user_folder(), record(stem))
    path = tmp_path / "net.edgeconv"
    done = cli("compile", model, *TARGET, "-o", path, "--json")
    assert done.json["tuned_layers"] == 1
    reasons = [step.reason for step in artifact.read(path).manifest.layers]
    assert sum(reason.startswith("tuned: 1.20") for reason in reasons) == 1
    plain = cli("compile", model, *TARGET, "-o", path, "--json", "--no-records")
    assert plain.json["tuned_layers"] == 0


def test_damage_and_age_are_said(cli, model: Path, stem: ConvTask, tmp_path: Path) -> None:
    path = records.append(tmp_path, record(stem, source="0" * 16))
    with path.open("a") as file:
        file.write("garbage\n")
    done = cli("explain", model, *TARGET, "--records", tmp_path)
    assert done.status == 0
    assert f"{path}:2: record skipped: not JSON" in done.err
    assert "1 record for this network made by other versions" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--no-records", "--records", "."), "not with --no-records"),
        (("--records", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_wrong_use(cli, model: Path, arguments: tuple[str, ...], words: str) -> None:
    done = cli("explain", model, *arguments)
    assert done.status == 2
    assert words in " ".join(done.err.replace("│", " ").split())


def test_list(cli, tmp_path: Path) -> None:
    records.append(tmp_path, record())
    records.append(tmp_path, record(date="2026-11-22T10:00:00+00:00"))
    records.append(tmp_path, record(tvm="0.26.0", threads=2))
    text = cli("records", "list", tmp_path).out
    assert [row.split()[-1] for row in text.splitlines()[1:]] == ["superseded", "yes", "version"]
    rows = cli("records", "list", tmp_path, "--json", "--folder", "raspberry-pi-4").json
    assert [row["current"] for row in rows] == [True, True, False]
    assert cli("records", "list", tmp_path, "--json", "--folder", "other").json == []


def test_verify(cli, tmp_path: Path) -> None:
    path = records.append(tmp_path, record())
    assert cli("records", "verify", tmp_path).status == 0
    with path.open("a") as file:
        file.write("\n")
    done = cli("records", "verify", tmp_path)
    assert done.status == 1
    assert "1 record, 1 of this version; 1 fault" in done.out
    assert f"{path}:2: record skipped: the line is empty" in done.err
    assert cli("records", "verify", tmp_path, "--json").json["faults"][0]["line"] == 2


def test_merge_adds_what_is_new(cli, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    records.append(one, record())
    records.append(two, record())
    records.append(two, record(threads=2))
    for added in (1, 0):
        assert cli("records", "merge", two, "--into", one, "--json").json["added"] == added
    (path,) = records.files_in(one)
    assert [s.record.threads for s in records.read_file(path)[0]] == [1, 2]


def test_prune_and_export(cli, tmp_path: Path) -> None:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    path = records.append(mine, record())
    records.append(mine, record(date="2026-11-22T10:00:00+00:00"))
    records.append(mine, record(source="0" * 16, threads=2))
    with path.open("a") as file:
        file.write("garbage\n")
    done = cli("records", "export", shipped, "--from", mine, "--json")
    assert done.json["exported"] == 1
    assert "garbage" not in (shipped / "raspberry-pi-4/grouped_spatial_pack.jsonl").read_text()
    assert cli("records", "export", shipped, "--from", mine).status == 1
    done = cli("records", "prune", "--into", mine, "--json")
    assert (done.json["kept"], done.json["removed"]) == (1, 3)
    stored, faults = records.read_file(path)
    assert [s.record.date[:10] for s in stored] == ["2026-11-22"]
    assert not faults


def test_renew_keeps_what_is_compiled_alike(cli, tmp_path: Path) -> None:
    path = records.append(tmp_path, record())
    with path.open("a") as file:
        file.write("garbage\n")
    assert "1 current, 0 renewed, 0 outdated" in cli("records", "renew", "--into", tmp_path).out
    (made,) = (s.record for s in records.read_file(path)[0])
    old = dataclasses.replace(made, source="0" * 16)
    path.write_text(f"{old.to_line()}\ngarbage\n{dataclasses.replace(old, kernel='').to_line()}\n")
    done = cli("records", "renew", "--into", tmp_path, "--json")
    assert (done.json["current"], done.json["renewed"], done.json["outdated"]) == (0, 1, 1)
    assert path.read_text().splitlines()[:2] == [made.to_line(), "garbage"]
    assert cli("records", "renew", "--into", tmp_path / "none").status == 1


def test_records_of_pairs(cli, tmp_path: Path) -> None:
    """Listed, verified, merged and shipped like all others; one that is edited is damaged."""
    on, mine = device(), tmp_path / "mine"
    ((_, task, _),) = pair_cases(1, 1, on)
    one = next(c for c in space(task, on, exact=False) if c != APART)
    for candidate in (one, APART):
        path = records.append(mine, pair_record(task, on, candidate))
    assert path.name == "two_kernels.jsonl"
    listed = cli("records", "list", mine, "--json").json
    assert {row["family"] for row in listed} == {"pointwise_depthwise", "two_kernels"}
    assert all(row["current"] and " then " in row["workload"] for row in listed)
    assert " then " in cli("records", "list", mine).out
    assert cli("records", "verify", mine).status == 0
    assert cli("records", "merge", mine, "--into", tmp_path / "all", "--json").json["added"] == 2
    shipped = tmp_path / "shipped"
    assert cli("records", "export", shipped, "--from", mine, "--json").json["exported"] == 1
    path.write_text(path.read_text().replace('"trials": 117', '"trials": 118'))
    done = cli("records", "verify", mine)
    assert done.status == 1
    assert "two_kernels.jsonl:1: record skipped: the checksum does not fit" in done.err


def test_prune_leaves_alone_what_holds_no_records(cli, tmp_path: Path) -> None:
    """Lines of other programs are not damaged records."""
    records.append(tmp_path, record())
    foreign = tmp_path / "data" / "train.jsonl"
    foreign.parent.mkdir()
    foreign.write_text('{"text": "mine"}\n')
    ours = tmp_path / "raspberry-pi-4" / "two_kernels.jsonl"
    ours.write_text("garbage\n")
    done = cli("records", "prune", "--into", tmp_path)
    assert done.status == 0
    assert f"{foreign} holds no record" in done.err
    assert foreign.read_text() == '{"text": "mine"}\n'
    assert not ours.exists()
    done = cli("records", "prune", "--into", foreign)
    assert done.status == 1
    assert "train.jsonl is not a folder" in done.err
    assert foreign.read_text() == '{"text": "mine"}\n'


def test_what_is_not_there(cli, tmp_path: Path) -> None:
    for command in (["list"], ["verify"], ["merge"]):
        done = cli("records", *command, tmp_path / "nowhere")
        assert done.status == 1
        assert "nowhere does not exist" in done.err
    done = cli("records", "export", tmp_path / "new", "--from", tmp_path)
    assert done.status == 1
    assert "no records to export" in done.err


def test_records_of_pools(cli, tmp_path: Path) -> None:
    """Are listed, checked, merged, shipped and pruned like others."""
    mine, other, shipped = (tmp_path / name for name in ("mine", "other", "shipped"))
    on = device(threads=2)
    path = records.append(mine, pool_record(pools()[2], on))
    records.append(mine, pool_record(pools()[2], on, date="2026-11-22T10:00:00+00:00"))
    records.append(mine, pool_record(pools()[2], on, source="0" * 16, threads=1))
    assert path.name == "pooling.jsonl"
    rows = cli("records", "list", mine).out.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["superseded", "yes", "version"]
    assert all(" avg_pool2d 2*20x7x9->20 k3x2 s1x2 p2,0,0,1 " in row for row in rows)
    assert "3 records, 2 of this version; 0 faults" in cli("records", "verify", mine).out
    assert cli("records", "merge", mine, "--into", other, "--json").json["added"] == 3
    assert cli("records", "export", shipped, "--from", other, "--json").json["exported"] == 1
    assert cli("records", "prune", "--into", other, "--json").json["kept"] == 1
    assert records.load(on, [shipped]).find_pool(pools()[2], on, exact=True) is not None
