"""The commands of `edgeconv device`, and what servers say when they are opened to a network."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edgeconv import targets
from edgeconv.device.server import Options, check_reachable
from edgeconv.device.trial import small_convolution
from edgeconv.errors import DeviceError
from tests.cli.conftest import Cli, cli
from tests.device import boards
from tests.device.test_faults import changed_server

__all__ = ["cli"]


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_add(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("device", "add", "rpi4", "ssh://pi@board")
    assert done.status == 0, done.err
    assert (
        (tmp_path / "config/edgeconv/devices.toml")
        .read_text()
        .endswith('"rpi4" = "ssh://pi@board"\n')
    )
    assert cli("device", "add", "rpi4").status == 2
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nowhere")
    assert "error: can't write /proc/nowhere/" in cli("device", "add", "x", "ssh://pi@board").err
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert cli("device", "add", "rpi4", "ssh://pi@board", "--remove").status == 2
    assert "names no port" in cli("device", "add", "x", "rpc://board").err
    assert cli("device", "add", "rpi4", "--remove").status == 0
    assert cli("device", "add", "rpi4", "--remove").status == 1


def test_list_check_detect(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("tornado")
    with boards.tracker() as tracker:
        place = f"127.0.0.1:{tracker.port}"
        done = cli("device", "list", "--tracker", place)
        assert done.status == 0
        assert f"`edgeconv device serve --tracker {place} --key NAME`" in done.out
        assert "warning" not in tracker.said()  # see test_exposure_is_announced
        assert _listeners(tracker.port) == {"127.0.0.1"}
        with boards.server("--tracker", place, "--key", "pc"):
            boards.registered(tracker.port, "pc")
            cli("device", "add", "mine", f"rpc://{place}/pc")
            done = cli("device", "list", "--json")
            (row,) = done.json["boards"]
            assert (row["key"], row["free"]) == ("pc", 1)
            if targets.host().arch == "x86_64":
                assert "x86-sse4" in row["targets"]
            assert done.json["names"]["mine"]["address"] == f"rpc://{place}/pc"
            boards.registered(tracker.port, "pc")
            done = cli("device", "check", "mine", "-t", "host")
            assert done.status == 0, done.out
            assert "the board works: 0 faults" in done.out
            boards.registered(tracker.port, "pc")
            path = tmp_path / "pc.toml"
            done = cli("device", "detect", "mine", "-o", path)
            assert done.status == 0, done.err
            assert targets.load(path).is_native
            assert cli("device", "detect", "mine", "-o", tmp_path / "x.txt").status == 2
    done = cli("device", "list", "--tracker", place)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: no tracker at")
    done = cli("device", "list")  # the name's tracker is gone as well
    assert done.status == 0
    assert "warning: no tracker at" in done.err


def test_list_of_names(cli: Cli) -> None:
    """Servers without a tracker: free, busy, not there; and what to do when nothing is known."""
    from edgeconv.device import session

    assert "`edgeconv device add NAME ADDRESS` names one" in cli("device", "list").out
    with boards.server() as process:
        place = f"rpc://127.0.0.1:{process.port}"
        cli("device", "add", "mine", place)
        (there,) = cli("device", "list", "--json").json["names"].values()
        assert there["state"] == "free"
        assert there["model"]
        with session(place):
            done = cli("device", "list", "--timeout", "60")
            assert "busy" in done.out
            assert done.err == ""
    done = cli("device", "list")
    assert done.status == 0
    assert "no answer" in done.out
    assert done.err.startswith(f"warning: {place}: connecting failed: Connection refused; is")
    assert done.err.count("\n") == 1


def test_run_takes_the_cores_the_board_lends(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(small_convolution().model, model)
    with changed_server("found['cores'] = [0]") as process:
        place = f"rpc://127.0.0.1:{process.port}"
        options = ("--device", place, "--repeat", 0, "--json")
        done = cli("run", model, *options)
        assert done.status == 0, done.err
        assert done.json["threads"] == 1
        assert cli("run", model, *options, "--threads", 2).json["threads"] == 2
        assert cli("run", model, *options, "--target", "host").json["threads"] == 1


def test_exposure_is_announced() -> None:
    """Loopback is silent; any other address comes with one sentence about what it means."""
    with boards.server() as process:
        assert "warning" not in process.said()
        assert "127.0.0.1" in _listeners(process.port)
    with boards.server("--listen", "0.0.0.0") as process:
        said = process.said()
        assert f"Anyone who can reach port {process.port} can run programs on this machine" in said
        assert "0.0.0.0" in _listeners(process.port)
    pytest.importorskip("tornado")
    with boards.tracker("--listen", "0.0.0.0") as process:
        said = process.said()
        assert f"warning: Anyone who can reach port {process.port} can take boards" in said
        assert said.count("\n") == 1
        assert "0.0.0.0" in _listeners(process.port)


def _listeners(port: int) -> set[str]:
    """Addresses that somebody listens at."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A" and int(local.partition(":")[2], 16) == port:
            raw = bytes.fromhex(local.partition(":")[0])[::-1]
            found.add(".".join(map(str, raw)))
    return found


def test_options_nobody_could_use() -> None:
    with pytest.raises(DeviceError, match="add --key NAME"):
        check_reachable(Options(tracker=("127.0.0.1", 9190)))
    with pytest.raises(DeviceError, match="add --listen ADDRESS"):
        check_reachable(Options(tracker=("192.0.2.1", 9190), key="rpi4"))
    check_reachable(Options(tracker=("127.0.0.1", 9190), key="rpi4"))
    check_reachable(Options(tracker=("192.0.2.1", 9190), key="rpi4", host="192.0.2.2"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tracker", "x:y"), "HOST:PORT"),
        (("--tracker", "127.0.0.1"), "add --key"),
        (("--tracker", "127.0.0.1", "--key", "a b"), "'a b' can't be a key"),
        (("--listen", "192.0.2.77"), "can't listen at 192.0.2.77:9090: Cannot assign"),
        (("--listen", ""), "--listen takes an address"),
        (("--listen", "nobody.invalid"), "--listen takes an address of this machine"),
        (("--work", "/nowhere"), "can't write into /nowhere: No such file or directory; --work"),
        (("--work", "/proc"), "can't write into /proc: "),
    ],
)
@pytest.mark.parametrize("command", [["edgeconv", "device", "serve"], ["edgeconv.device"]])
def test_faulty_servers(command: list[str], arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, *arguments],
        capture_output=True,
        text=True,
        cwd=boards.ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr


def test_the_port_is_taken() -> None:
    with boards.server() as process:
        command = [sys.executable, "-m", "edgeconv.device", "--port", str(process.port)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=boards.ROOT, timeout=60, check=False
        )
        assert done.returncode == 1
        assert "Address already in use; --port takes another port" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_end_cleanly(number: int, tmp_path: Path) -> None:
    from edgeconv.device import session

    with boards.server("--work", str(tmp_path)) as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            board.upload(b"123", "x")
            assert list(tmp_path.glob("*/x"))
            process.end(number)
        assert process.process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_once() -> None:
    from edgeconv.device import session

    with boards.server("--once") as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            board.echo(1)
        process.process.wait(20)
        assert process.process.returncode == 0


def test_edgeconv_device_serve() -> None:
    """The same server by the command."""
    from edgeconv.device import session

    program = (sys.executable, "-m", "edgeconv", "device", "serve")
    with boards.server(program=program) as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            board.echo(1)
