"""Addresses of boards and the user's file of names."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeconv.device import address
from edgeconv.device.address import Address, add, known, parse, resolve
from edgeconv.device.lending import ssh_command
from edgeconv.device.serving import host_and_port
from edgeconv.errors import DeviceError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty config folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "edgeconv" / "devices.toml"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rpc://10.0.0.1:9190/rpi4", Address("rpc", "10.0.0.1", 9190, "rpi4")),
        ("rpc://board.local:9090", Address("rpc", "board.local", 9090)),
        ("rpc://[::1]:9090/a.b-c_d", Address("rpc", "::1", 9090, "a.b-c_d")),
        ("ssh://pi@board", Address("ssh", "board", 9090, "", "pi")),
        ("ssh://board:2222/9191", Address("ssh", "board", 9191, "", "", 2222)),
    ],
)
def test_parse(text: str, wanted: Address) -> None:
    assert parse(text) == wanted
    assert parse(str(wanted)) == wanted
    assert str(wanted) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://board", "neither rpc:// nor ssh://"),
        ("rpc://board", "names no port: trackers listen at 9190, servers at 9090"),
        ("rpc://board:x/key", "is not the address"),
        ("rpc://board:99999", "is not the address"),
        ("rpc://board:0/key", "ports are from 1"),
        ("ssh://board:0", "ports are from 1"),
        ("rpc://:9090", "names no host"),
        ("rpc://pi@board:9090", "through ssh it is ssh://USER@HOST"),
        ("rpc://board:9190/a b", "can.t be a key: letters"),
        ("rpc://board:9190/a/b", "can.t be a key: letters"),
        ("rpc://board:9190/k?x=1", "have no meaning"),
        ("ssh://pi:secret@board", "password"),
        ("ssh://-oProxyCommand=sh", "names no host"),
        ("ssh://-oProxyCommand=sh@board", "not the name of a user|names no host"),
        ("ssh://board/x", "the port of the server"),
        ("ssh://board/70000", "the port of the server"),
        ("rpc://", "names no host"),
    ],
)
def test_malformed(text: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        parse(text)


def test_ssh_command() -> None:
    """Asks nothing, and what comes from the address can't be taken for an option."""
    command = ssh_command(parse("ssh://pi@board:2222/9191"), 7.5)
    assert command[:5] == ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=7"]
    assert command[-8:] == ["-p", "2222", "-l", "pi", "-W", "127.0.0.1:9191", "--", "board"]


def test_names(config: Path) -> None:
    assert known() == {}
    with pytest.raises(DeviceError, match="none are known yet"):
        resolve("rpi4")
    assert add("rpi4", parse("rpc://a:1/k")) == config
    add("desk", parse("ssh://pi@b"))
    assert known() == {"rpi4": parse("rpc://a:1/k"), "desk": parse("ssh://pi@b")}
    assert resolve("desk") == parse("ssh://pi@b")
    assert resolve("rpc://c:2") == parse("rpc://c:2")
    with pytest.raises(DeviceError, match=r"did you mean 'rpi4'\?"):
        resolve("rpi5")
    add("desk", None)
    assert set(known()) == {"rpi4"}
    with pytest.raises(DeviceError, match="no device 'desk'"):
        add("desk", None)
    assert [p.name for p in config.parent.iterdir()] == ["devices.toml"]


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "x" * 65, "rpc://a:1"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(DeviceError, match="can't be a name"):
        add(name, parse("rpc://a:1"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices = 3", "only \\[devices\\]"),
        ("[devices]\nx = 3", "must be a string"),
        ("[devices]\nx = 'rpc://y'", "device 'x'.*names no port"),
        ("[other]\nx = 1", "only \\[devices\\]"),
        ("[[[", "not a valid TOML"),
    ],
)
def test_faulty_files(text: str, words: str, config: Path) -> None:
    config.parent.mkdir()
    config.write_text(text, encoding="utf-8")
    with pytest.raises(DeviceError, match=words):
        known()


def test_unreadable_and_unwritable(config: Path) -> None:
    config.mkdir(parents=True)
    with pytest.raises(DeviceError, match="can't read"):
        known()
    config.rmdir()
    config.parent.rmdir()
    config.parent.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(DeviceError, match=r"can't (read|write)"):
        add("x", parse("rpc://a:1"))


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, by the specification
    assert address.config_file() == Path.home() / ".config/edgeconv/devices.toml"


def test_host_and_port() -> None:
    assert host_and_port("board:1234") == ("board", 1234)
    assert host_and_port("board") == ("board", 9190)
    assert host_and_port("[::1]:1") == ("::1", 1)
    assert host_and_port("[::1]") == ("::1", 9190)
    for wrong in ("board:", ":1", "board:x", "board:0", "board:70000", ""):
        with pytest.raises(DeviceError, match="HOST:PORT"):
            host_and_port(wrong)
