"""The server on a board: what it needs, where it runs, and what can't stop it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeconv.device import RemoteModel, session
from edgeconv.device.trial import small_convolution
from edgeconv.errors import DeviceError
from tests.device import boards

ABSENT = ("typer", "rich", "numpy", "onnx", "tomli", "tornado", "psutil", "xgboost")
SMALL_INSTALLATION = (
    f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
    "from edgeconv.__main__ import main; main()"
)


def computes(place: str) -> None:
    """The server at this address runs a network right."""
    trial = small_convolution()
    with session(place) as board:
        model = RemoteModel(boards.network(), board)
        assert trial.error(model.run({"x": trial.x})["y"]) < 1e-5


def test_the_small_installation() -> None:
    """`edgeconv device serve` where only TVM's runtime is installed."""
    program = (sys.executable, "-c", SMALL_INSTALLATION, "device", "serve")
    with boards.server("--key", "rpi4", program=program) as process:
        computes(f"rpc://127.0.0.1:{process.port}")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("run", "net.onnx"), 1, "error: typer and rich missing: this installation can only"),
        ((), 1, "`edgeconv device serve`"),
        (("device", "serve", "--port", "x"), 2, "usage: edgeconv device serve"),
        (("device", "serve", "--port", "70000"), 1, "a port is a number from 0 to 65535"),
    ],
)
def test_the_small_installation_says_what_it_lacks(
    arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL_INSTALLATION, *arguments],
        capture_output=True,
        text=True,
        cwd=boards.ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@contextlib.contextmanager
def mounted(folder: Path, options: str, *more: str) -> Iterator[boards.Process]:
    """A server in a mount namespace of its own, with a small disk at `folder`."""
    folder.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = " && ".join([f"mount -t tmpfs -o {options} none '{folder}'", *more])
    possible = shutil.which("unshare") is not None
    if not possible or subprocess.run([*namespace, "sh", "-c", mount], check=False).returncode:
        pytest.skip("this system lets nobody mount anything")
    program = [*namespace, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    program += [sys.executable, "-B", "-m", "edgeconv.device"]
    with boards.server("--work", str(folder), program=program) as process:
        yield process


def test_the_disk_is_full_before_a_session(tmp_path: Path) -> None:
    """Not even an empty folder fits: the client is told, and the server goes on."""
    folder = tmp_path / "small"
    with mounted(folder, "nr_inodes=2") as process:  # the mount point takes the other
        place = f"rpc://127.0.0.1:{process.port}"
        there = Path(f"/proc/{process.process.pid}/root{folder}")
        (there / "full").touch()
        with pytest.raises(DeviceError, match=r"can't start a session in .*small: No space left"):
            session(place)
        (there / "full").unlink()
        with session(place) as board:
            with pytest.raises(DeviceError, match="disk is full"):
                board.upload(b"1", "x")  # the session's folder took the last one
        boards.until(lambda: not list(there.iterdir()))


def test_all_but_the_work_folder_is_read_only(tmp_path: Path) -> None:
    """As in the service of docs/devices.md, where only the temporary folder can be written."""
    with mounted(tmp_path / "work", "size=64m", "mount -o remount,bind,ro /") as process:
        with pytest.raises(OSError, match="Read-only"):
            Path(f"/proc/{process.process.pid}/root{tmp_path}/x").touch()
        computes(f"rpc://127.0.0.1:{process.port}")
        computes(f"rpc://127.0.0.1:{process.port}")


def test_the_unit(tmp_path: Path) -> None:
    """systemd understands the service of docs/devices.md."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    text = (boards.ROOT / "docs/devices.md").read_text(encoding="utf-8")
    (unit,) = re.findall(r"^\[Unit\]\n.*?^```", text, re.DOTALL | re.MULTILINE)
    assert re.search(r"^ExecStart=/\S*/bin/edgeconv device serve$", unit, re.MULTILINE)
    path = tmp_path / "edgeconv.service"
    path.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit.removesuffix("```")))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text(path.read_text().replace("Restart=always", "Restart=sometimes"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert "sometimes" in done.stderr  # it does look


STOPPED_READING = """
import socket, time
from edgeconv.device.server import Options, Server
server = Server(Options(port=0))
for unread in (0, 1 << 20):
    near, far = socket.socketpair()
    near.setblocking(False)
    try:
        near.sendall(bytes(unread))
    except BlockingIOError:
        assert unread
    start = time.monotonic()
    server._tell(near, "it is over")
    print(time.monotonic() - start, b"it is over" in far.recv(1 << 16))
"""


def test_a_client_that_stopped_reading() -> None:
    """Telling it why its session ended takes a second or two, whether it reads that or not."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_READING],
        capture_output=True,
        text=True,
        cwd=boards.ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (seconds, heard), (more_seconds, _) = (line.split() for line in done.stdout.splitlines())
    assert heard == "True"
    assert 0 < float(seconds) < 10
    assert 0 < float(more_seconds) < 10
