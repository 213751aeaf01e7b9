"""Malformed models: each is refused with one ModelError, quickly, without leaving a file."""

from __future__ import annotations

import glob
import os
import random
import struct
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.errors import ModelError
from edgeconv.importer.check import check_model
from edgeconv.importer.limits import MAX_DEPTH
from edgeconv.importer.reading import read_model
from tests.importer.malformed import (
    FLOAT,
    MALFORMED,
    conv,
    make,
    nested,
    node,
    set_tensor,
    small,
    tensor_of,
    value,
)

LIGHT = sorted(
    glob.glob(os.path.join(os.path.dirname(onnx.__file__), "backend/test/data/light/*.onnx"))
)
SECONDS = 5.0  # each takes milliseconds; CI machines are noisy


def refused(source: object, folder: Path, *words: str) -> None:
    """`read_model` raises ModelError with all `words`, quickly, and changes nothing in `folder`."""
    before = sorted(folder.rglob("*"))
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        read_model(source)  # type: ignore[arg-type]
    assert time.perf_counter() - start < SECONDS
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 700
    assert sorted(folder.rglob("*")) == before


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in its own folder, so a file left anywhere usual is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str, tmp_path: Path) -> None:
    make_source, words = MALFORMED[name]
    source = make_source()
    content = source if isinstance(source, bytes) else source.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    if name != "weight_unloaded":
        refused(path, tmp_path, *words)
        refused(str(path), tmp_path, *words)
    refused(content, tmp_path, *words)
    if not isinstance(source, bytes):
        refused(source, tmp_path, *words)
    assert path.read_bytes() == content


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "gone.onnx", tmp_path, "gone.onnx", "does not exist")
    refused("bad\0name", tmp_path, "cannot be read")
    refused("x" * 5000, tmp_path, "cannot be read")
    refused(tmp_path, tmp_path, "directory")
    refused(b"", tmp_path, "empty")
    refused(7, tmp_path, "not int")
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", tmp_path, "empty")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", tmp_path, "regular file")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    refused(tmp_path / "loop.onnx", tmp_path, "cannot be read")


def test_file_too_big(tmp_path: Path) -> None:
    with open(tmp_path / "big.onnx", "wb") as file:
        file.truncate(2**31 + 10)  # sparse
    refused(tmp_path / "big.onnx", tmp_path, "2 GiB", "external data")


def external(path: Path, **entries: str) -> Path:
    """Writes the valid network to `path` with weight w described by `entries`."""
    model = small()
    tensor = tensor_of(model, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    return path


HOSTILE: dict[str, tuple[dict[str, str], str]] = {
    "absolute": ({"location": "/etc/hostname"}, "absolute"),
    "windows": ({"location": "C:\\data.bin"}, "absolute"),
    "parent": ({"location": "../secret.bin"}, "leaves"),
    "parent_inside": ({"location": "sub/../../secret.bin"}, "leaves"),
    "parent_windows": ({"location": "..\\secret.bin"}, "leaves"),
    "link": ({"location": "link.bin"}, "link that leaves"),
    "folder_link": ({"location": "out/secret.bin"}, "link that leaves"),
    "link_loop": ({"location": "loop.bin"}, "location"),
    "missing": ({"location": "gone.bin"}, "missing"),
    "no_location": ({}, "no usable location"),
    "null": ({"location": "a\0b"}, "no usable location"),
    "directory": ({"location": "sub"}, "not a regular file"),
    "pipe": ({"location": "pipe"}, "not a regular file"),
    "too_long_name": ({"location": "n" * 5000}, "location"),
    "offset_outside": ({"location": "data.bin", "offset": "1000", "length": "864"}, "outside"),
    "length_outside": ({"location": "data.bin", "length": str(2**62)}, "outside"),
    "offset_huge": ({"location": "data.bin", "offset": str(10**18)}, "outside"),
    "offset_negative": ({"location": "data.bin", "offset": "-4"}, "whole number"),
    "offset_text": ({"location": "data.bin", "offset": "9" * 5000}, "whole number"),
    "length_wrong": ({"location": "data.bin", "length": "860"}, "needs 864 bytes"),
    "length_missing": ({"location": "long.bin"}, "needs 864 bytes"),
}


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with data files, links and traps, beside a file that must not be read."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(864))
    (folder / "data.bin").write_bytes(struct.pack("<216f", *range(216)))
    (folder / "long.bin").write_bytes(bytes(900))
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "out").symlink_to("..")
    (folder / "loop.bin").symlink_to("loop.bin")
    (folder / "near.bin").symlink_to("data.bin")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_external_data_hostile(name: str, model_folder: Path) -> None:
    entries, word = HOSTILE[name]
    path = external(model_folder / "net.onnx", **entries)
    refused(path, model_folder, "'w'", word)


def test_external_data_unloaded(model_folder: Path) -> None:
    path = external(model_folder / "net.onnx", location="data.bin")
    refused(path.read_bytes(), model_folder, "'w'", "another file")
    with pytest.raises(ModelError, match="not loaded"):
        check_model(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize("location", ["data.bin", "./data.bin", "near.bin"])
def test_external_data_loads(
    location: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(model_folder / "net.onnx", location=location, offset="0", length="864")
    monkeypatch.chdir(model_folder)
    for source in (path, "net.onnx"):
        tensor = tensor_of(read_model(source), "w")
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data
        assert numpy_helper.to_array(tensor).ravel().tolist() == list(range(216))


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: Path(p).stem)
def test_light_models_pass(path: str) -> None:
    model = read_model(path)
    assert all(w.HasField("raw_data") for w in model.graph.initializer)
    check_model(model)


def test_nine_light_models() -> None:
    assert len(LIGHT) == 9


def test_valid_passes_unchanged() -> None:
    source = small()
    source.graph.value_info.append(value("c", 77))  # stale, as in edited models
    before = source.SerializeToString()
    model = read_model(source)
    assert source.SerializeToString() == before
    assert not model.graph.value_info
    assert read_model(before).SerializeToString() == model.SerializeToString()
    check_model(nested(MAX_DEPTH - 1))


def test_typed_data_becomes_raw() -> None:
    model = read_model(set_tensor("b", raw_data=None, float_data=[1.0, 2, 3, 4, 5, 6]))
    assert tensor_of(model, "b").raw_data == struct.pack("<6f", 1, 2, 3, 4, 5, 6)


def test_dynamic_sizes_and_unknown_operators_pass() -> None:
    read_model(conv(8, 8, 3, 3, data=("batch", 8, "height", "width")))
    read_model(make(node("NotAnOperator", "x")))  # left to the importer, which lists them all


def test_other_opsets_on_request() -> None:
    assert read_model(make(node("Relu", "x"), opset=24), opsets=range(1, 29))


def test_torch_export_passes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.Hardswish(),
        torch.nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4),
        torch.nn.SiLU(),
        torch.nn.MaxPool2d(2, ceil_mode=True),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    ).eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 33, 31),), path, dynamo=False, opset_version=17)
    assert read_model(path).graph.output


@pytest.mark.parametrize("seed", range(200))
def test_mutated_bytes(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    content = bytearray(small().SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if not content:
            break
        position = rng.randrange(len(content))
        kind = rng.random()
        if kind < 0.5:
            content[position] ^= 1 << rng.randrange(8)
        elif kind < 0.8:
            content[position] = rng.randrange(256)
        elif kind < 0.9:
            del content[position : position + rng.randrange(1, 9)]
        else:
            del content[position:]
    start = time.perf_counter()
    try:
        read_model(bytes(content))
    except ModelError:
        pass
    except BaseException as error:
        pytest.fail(f"seed {seed}: {error!r}")
    assert time.perf_counter() - start < SECONDS, f"seed {seed}"
    assert not any(tmp_path.iterdir()), f"seed {seed}"


def test_local_functions_are_inlined() -> None:
    """As PyTorch's newer exporter writes them."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    graph = helper.make_graph(
        [helper.make_node("F", ["x"], ["y"], domain="mine")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 8])],
    )
    function = helper.make_function("mine", "F", ["a"], ["b"], body, imports[:1])
    model = helper.make_model(graph, opset_imports=imports, functions=[function])
    assert [n.op_type for n in read_model(model).graph.node] == ["Relu"]
