"""Artifacts: whatever happens to the file, the answer is an ArtifactError or the right result."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeconv
from edgeconv import artifact
from edgeconv.errors import ArtifactError, TargetError
from tests.e2e.models import ModelMaker

FLIPS = 200


@pytest.fixture(scope="module")
def model() -> edgeconv.Model:
    maker = ModelMaker()
    y = maker.conv(maker.input("x", 1, 3, 6, 6), 3, 5)
    return edgeconv.compile(maker.model(maker.node("Relu", y)), threads=1)


@pytest.fixture(scope="module")
def saved(model: edgeconv.Model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return model.save(tmp_path_factory.mktemp("saved") / "net.edgeconv").read_bytes()


def test_every_bit_of_the_zip_structures(saved: bytes, tmp_path: Path) -> None:
    """Offsets, sizes, methods and flags: read or refused, and nothing else."""
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        starts = [member.header_offset for member in archive.infolist()]
        directory = archive.start_dir
    places = [s + i for s in starts for i in range(30)] + list(range(directory, len(saved)))
    path = tmp_path / "net.edgeconv"
    refused = 0
    for place in places:
        for bit in range(8):
            data = bytearray(saved)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            try:
                artifact.read(path)
            except ArtifactError:
                refused += 1
    assert refused > len(places)


Change = Callable[[dict[str, Any], dict[str, bytes]], object]


def rewritten(saved: bytes, change: Change, *, rehash: bool = True) -> bytes:
    """The archive with its header and members changed by `change`."""
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["manifest.json"])
    change(header, members)
    if "manifest.json" in members:
        manifest = header.get("manifest")
        if rehash and isinstance(header.get("sha256"), dict):
            header["sha256"]["manifest"] = artifact._sha256(artifact._canonical(manifest))
        members["manifest.json"] = json.dumps(header).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def damaged(saved: bytes, seed: int) -> bytes:
    """A flipped bit, a changed run of bytes, a piece cut out, or the end missing."""
    rng = random.Random(seed)
    data = bytearray(saved)
    at = rng.randrange(len(data))
    kind = seed % 4
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        # the directory of a zip file is at its end, and the header at its start: hit both often
        at = rng.choice(
            (at, rng.randrange(min(4000, len(data))), len(data) - 1 - rng.randrange(300))
        )
        run = rng.randbytes(rng.randrange(1, 9))
        data[at : at + len(run)] = run
    elif kind == 2:
        del data[at : at + rng.randrange(1, 100)]
    else:
        del data[at:]
    return bytes(data)


@pytest.mark.parametrize("part", range(4))
def test_damage_is_noticed(model: edgeconv.Model, saved: bytes, tmp_path: Path, part: int) -> None:
    feeds = model.random_inputs()
    wanted = model.run(feeds)
    path = tmp_path / "net.edgeconv"
    refused = 0
    for seed in range(part, FLIPS, 4):
        path.write_bytes(damaged(saved, seed))
        try:
            results = edgeconv.load(path).run(feeds)
        except ArtifactError:
            refused += 1
            continue
        assert results.keys() == wanted.keys(), seed
        for name in wanted:
            assert np.array_equal(results[name], wanted[name]), seed
    assert refused > FLIPS // 8
    assert [p.name for p in tmp_path.iterdir()] == ["net.edgeconv"]


def _set(header: dict[str, Any], *keys: str, value: object) -> None:
    for key in keys[:-1]:
        header = header[key]
    header[keys[-1]] = value


CHANGES: dict[str, tuple[Change, str]] = {
    "newer format": (lambda h, m: _set(h, "format", value=2), "format 2.*compile the model again"),
    "no format": (lambda h, m: h.pop("format"), "damaged"),
    "unknown code": (lambda h, m: _set(h, "code", value="../../evil.so"), "unknown code member"),
    "no code": (lambda h, m: m.pop("code.so"), "damaged"),
    "no constants": (lambda h, m: m.pop("constants.bin"), "damaged"),
    "no manifest": (lambda h, m: m.pop("manifest.json"), "damaged"),
    "other code": (lambda h, m: m.update({"code.so": b"\x7fELF"}), "code.so does not match"),
    "other constants": (lambda h, m: m.update({"constants.bin": b""}), "constants.bin does not"),
    "header is a list": (lambda h, m: h.clear(), "damaged"),
    "shape is text": (
        lambda h, m: h["manifest"]["inputs"][0].update(shape="abc"),
        "damaged",
    ),
    "no inputs": (lambda h, m: h["manifest"].pop("inputs"), "damaged"),
    "unknown layer field": (lambda h, m: h["manifest"]["layers"][0].update(more=1), "damaged"),
    "unknown device field": (lambda h, m: h["manifest"]["device"].update(more=1), "damaged"),
    "device is null": (lambda h, m: h["manifest"].update(device=None), "damaged"),
    "threads are text": (lambda h, m: h["manifest"].update(threads="many"), "damaged"),
    "hashes are a list": (lambda h, m: h.update(sha256=[]), "damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_wrong_headers_are_explained(saved: bytes, tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    path = tmp_path / "net.edgeconv"
    path.write_bytes(rewritten(saved, change))
    with pytest.raises(ArtifactError, match=message):
        edgeconv.load(path)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "larger input": lambda m: m["inputs"][0].update(shape=[1, 3, 600, 600]),
    "wider type": lambda m: m["outputs"][0].update(dtype="float64"),
    "another workspace": lambda m: m.update(workspace_bytes=m["workspace_bytes"] ^ 64),
    "another device": lambda m: m["device"].update(features=[]) or m["device"].update(cpu="k8"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_manifests_are_noticed(saved: bytes, tmp_path: Path, name: str) -> None:
    path = tmp_path / "net.edgeconv"
    path.write_bytes(rewritten(saved, lambda h, m: EDITS[name](h["manifest"]), rehash=False))
    with pytest.raises(ArtifactError, match="manifest does not match its hash"):
        edgeconv.load(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"\x7fELF" * 100, b"[]", os.urandom(500)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.edgeconv"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="not an edgeconv artifact"):
        edgeconv.load(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.edgeconv does not exist"):
        edgeconv.load(tmp_path / "nowhere.edgeconv")
    with pytest.raises(ArtifactError, match="is a folder"):
        edgeconv.load(tmp_path)


def foreign() -> artifact.Artifact:
    """Compiled for a CPU that this machine is not."""
    maker = ModelMaker()
    y = maker.conv(maker.input("x", 1, 3, 6, 6), 3, 5)
    compiled = edgeconv.compile_artifact(maker.model(y), target="raspberry-pi-4", threads=1)
    if compiled.manifest.device.is_native:
        pytest.skip("this machine is a Raspberry Pi 4")
    return compiled


def test_foreign_code_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = foreign().save(tmp_path / "net.edgeconv")
    read = artifact.read(path)
    assert read.manifest.device.name == "raspberry-pi-4"
    code = read.shared_library or read.object_file
    assert code is not None
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 183  # EM_AARCH64

    def refuse(*_: object) -> None:
        raise AssertionError("foreign code was opened")

    monkeypatch.setattr(artifact.tvm.runtime, "load_module", refuse)
    monkeypatch.setattr(artifact, "link", refuse)
    with pytest.raises(ArtifactError, match=r"compiled for 'raspberry-pi-4'.*can't run"):
        edgeconv.load(path)


def test_compile_refuses_a_foreign_target() -> None:
    maker = ModelMaker()
    made = maker.model(maker.conv(maker.input("x", 1, 3, 6, 6), 3, 5))
    with pytest.raises(TargetError, match="is not this machine"):
        edgeconv.compile(made, target="raspberry-pi-4")


def test_unwritable_paths_leave_no_file(model: edgeconv.Model, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't write"):
        model.save(tmp_path / "nowhere" / "net.edgeconv")
    folder = tmp_path / "net.edgeconv"
    folder.mkdir()
    with pytest.raises(ArtifactError, match="can't write"):
        model.save(folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["net.edgeconv"]
    with pytest.raises(ArtifactError, match="can't write"):
        model.save("/proc/net.edgeconv")


def test_full_disks_leave_no_file(
    model: edgeconv.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    (tmp_path / "net.edgeconv").write_text("the old one")
    with pytest.raises(ArtifactError, match="No space left"):
        model.save(tmp_path / "net.edgeconv")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["net.edgeconv"]
    assert (tmp_path / "net.edgeconv").read_text() == "the old one"


def test_saving_replaces_the_old_file(model: edgeconv.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.edgeconv"
    path.write_text("the old one")
    assert model.save(str(path)) == path
    assert edgeconv.load(path).manifest == model.manifest


def test_manifest_survives_json(model: edgeconv.Model) -> None:
    manifest = model.manifest
    again = artifact.Manifest.from_json(json.loads(json.dumps(manifest.to_json())))
    assert again == manifest
    assert manifest.threads == 1
    assert len(manifest.model_sha256) == 64
    assert manifest.layers


def test_saves_to_the_target_of_a_link_and_never_to_a_device(
    model: edgeconv.Model, tmp_path: Path
) -> None:
    """What stands at the path is replaced only if it is a plain file."""
    link, real = tmp_path / "link.edgeconv", tmp_path / "real.edgeconv"
    link.symlink_to(real)
    model.save(link)
    assert link.is_symlink()
    assert edgeconv.load(real).inputs == model.inputs
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ArtifactError, match="not a regular file"):
        model.save(pipe)
    assert pipe.is_fifo()
