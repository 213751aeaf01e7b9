"""Boards through ssh: OpenSSH itself where its server is there, and a client that acts alike."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeconv.device import RemoteModel, session
from edgeconv.device.trial import small_convolution
from edgeconv.errors import DeviceError
from tests.device import boards
from tests.device.test_faults import SHORT, fails_within, free_port

ACTS_ALIKE = """#!{python}
import os, socket, sys, threading
port = int(sys.argv[sys.argv.index("-W") + 1].rpartition(":")[2])
host = sys.argv[-1]
if host == "stranger":
    sys.exit(print("user@stranger: Permission denied (publickey).", file=sys.stderr) or 255)
if host == "silent":
    import time
    time.sleep(1000)
try:
    sock = socket.create_connection(("127.0.0.1", port))
except OSError as error:
    print(f"channel 0: open failed: connect failed: {{error.strerror}}", file=sys.stderr)
    print("stdio forwarding failed", file=sys.stderr)
    sys.exit(255)
def copy(read, write):
    while data := read(1 << 16):
        write(data)
threading.Thread(target=copy, args=(sock.recv, lambda d: os.write(1, d)), daemon=True).start()
copy(lambda n: os.read(0, n), sock.sendall)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ssh that connects without a login."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(ACTS_ALIKE.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return str(program)


def works(address: str) -> None:
    with RemoteModel(boards.network(), session(address, 10)) as model:
        trial = small_convolution()
        assert trial.error(model.run({"x": trial.x})["y"]) < 1e-5


def test_through_a_tunnel(fake: str) -> None:
    with boards.server() as process:
        works(f"ssh://user@board/{process.port}")
        with session(f"ssh://user@board/{process.port}", SHORT) as board:
            assert boards.processes(fake)
            board.upload(bytes(10_000_000), "big.so")
            process.end(9)
            with fails_within(SHORT):
                board.echo(1)
    boards.until(lambda: not boards.processes(fake))


def test_what_ssh_says(fake: str) -> None:
    with fails_within(1, "ssh said:", "Connection refused", "`ssh user@board` log in"):
        session(f"ssh://user@board/{free_port()}", SHORT)
    with fails_within(1, "Permission denied (publickey)", "without a password"):
        session("ssh://user@stranger", SHORT)
    with fails_within(SHORT, f"no answer within {SHORT:g} s"):
        session("ssh://user@silent", SHORT)
    boards.until(lambda: not boards.processes(fake))


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with fails_within(1, "can't start ssh", "install the OpenSSH client"):
        session("ssh://user@board", SHORT)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """OpenSSH's server at a free port of this machine, for this user with a key; the port."""
    sshd = shutil.which("sshd", path=f"/usr/sbin:{os.environ['PATH']}")
    ssh = shutil.which("ssh")
    if sshd is None or ssh is None:
        pytest.skip("no OpenSSH server here")
    tmp_path.chmod(0o700)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in options.items()))
    (tmp_path / "ssh_config").write_text(
        f"IdentityFile {tmp_path / 'user'}\nIdentitiesOnly yes\nStrictHostKeyChecking no\n"
        f"UserKnownHostsFile {tmp_path / 'known'}\nLogLevel ERROR\n"
    )
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {ssh} -F '{tmp_path / 'ssh_config'}' \"$@\"\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    process = subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.DEVNULL
    )

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    try:
        boards.until(listens)
        yield port
    finally:
        process.terminate()
        process.wait()


def test_openssh(real: int, tmp_path: Path) -> None:
    user = getpass.getuser()
    with boards.server() as process:
        works(f"ssh://{user}@127.0.0.1:{real}/{process.port}")
        with fails_within(3, "ssh said:", "stdio forwarding failed"):
            session(f"ssh://{user}@127.0.0.1:{real}/{free_port()}", 10)
        (tmp_path / "authorized").write_text("")
        with pytest.raises(DeviceError, match="Permission denied"):
            session(f"ssh://{user}@127.0.0.1:{real}/{process.port}", 10)
