"""Whatever goes wrong with a board: an error that says what to do, in time; nothing left over."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeconv
from edgeconv import targets
from edgeconv.device import RemoteModel, Session, session
from edgeconv.device.trial import small_convolution
from edgeconv.errors import DeviceError
from tests.device import boards

SHORT = 2.0  # seconds of timeout where it must pass
SLACK = 4.0  # seconds beyond it, on a busy machine
RELAY = "edgeconv.device.relay"


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = boards.processes(RELAY)
    yield
    boards.until(lambda: boards.processes(RELAY) <= before)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of a server's sessions."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def fails_within(seconds: float, *words: str) -> Iterator[None]:
    """DeviceError with these words, in time."""
    start = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        yield
    elapsed = time.monotonic() - start
    assert elapsed < seconds + SLACK, f"{elapsed:.1f} s: {caught.value}"
    for word in words:
        assert word in str(caught.value), str(caught.value)


def works(board: Session) -> None:
    """Its server computes what it should."""
    trial = small_convolution()
    model = RemoteModel(boards.network(), board)
    assert trial.error(model.run({"x": trial.x})["y"]) < 1e-5


def serves_again(process: boards.Process, work: Path | None = None) -> None:
    """The server takes the next client, and nothing of the last one is there."""

    def free() -> bool:
        with contextlib.suppress(DeviceError), session(f"rpc://127.0.0.1:{process.port}") as board:
            works(board)
            return True
        return False

    boards.until(free)
    boards.until(lambda: not boards.children(process.process.pid))
    if work is not None:
        boards.until(lambda: not list(work.iterdir()))


def free_port() -> int:
    """A port nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


# trackers


def test_no_tracker() -> None:
    with fails_within(0, "no tracker", "edgeconv device tracker --port", "Connection refused"):
        session(f"rpc://127.0.0.1:{free_port()}/rpi4")


def test_what_is_no_tracker() -> None:
    with boards.server() as process:
        with fails_within(SHORT, "no tracker"):
            session(f"rpc://127.0.0.1:{process.port}/rpi4", SHORT)


def test_keys_and_busy_boards(work: Path) -> None:
    """Unknown key, no free board, and a board that comes free in time."""
    pytest.importorskip("tornado")
    with boards.tracker() as tracker:
        place = f"rpc://127.0.0.1:{tracker.port}"
        with fails_within(0, "no board is registered", "edgeconv device serve --tracker"):
            session(f"{place}/rpi4")
        arguments = ("--tracker", f"127.0.0.1:{tracker.port}", "--key", "rpi4")
        with boards.server(*arguments, "--work", str(work)) as process:
            boards.registered(tracker.port, "rpi4")
            with fails_within(0, "no board with the key 'rpi5': it has rpi4"):
                session(f"{place}/rpi5")
            with session(f"{place}/rpi4") as board:
                works(board)
                with fails_within(SHORT, "the board with the key 'rpi4' stayed busy"):
                    session(f"{place}/rpi4", SHORT)
                threading.Timer(1.0, board.close).start()
                with session(f"{place}/rpi4") as second:
                    works(second)
            # a client that asks for a board and never comes: the board is offered anew
            boards.registered(tracker.port, "rpi4")
            boards.until(lambda: not boards.children(process.process.pid))
        boards.until(lambda: not list(work.iterdir()))


@pytest.mark.slow
def test_the_tracker_restarts() -> None:
    pytest.importorskip("tornado")
    with boards.tracker() as tracker:
        arguments = ("--tracker", f"127.0.0.1:{tracker.port}", "--key", "rpi4")
        with boards.server(*arguments):
            boards.registered(tracker.port, "rpi4")
            tracker.end(signal.SIGKILL)
            program = (sys.executable, "-m", "edgeconv", "device", "tracker")
            with boards.Process("--port", str(tracker.port), program=program):
                boards.registered(tracker.port, "rpi4")
                with session(f"rpc://127.0.0.1:{tracker.port}/rpi4") as board:
                    works(board)


# connecting


def test_nobody_there() -> None:
    with fails_within(0, "edgeconv device serve"):
        session(f"rpc://127.0.0.1:{free_port()}")


def test_silence() -> None:
    """Something accepts the connection, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with fails_within(SHORT, f"no answer within {SHORT:g} s"):
            session(f"rpc://127.0.0.1:{port}", SHORT)
        with fails_within(SHORT, "no tracker answers", f"{SHORT:g} s"):
            session(f"rpc://127.0.0.1:{port}/rpi4", SHORT)


def test_another_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                connection.recv(100)

        thread = threading.Thread(target=answer)
        thread.start()
        with fails_within(SHORT, "doesn't answer as a TVM RPC server does"):
            session(f"rpc://127.0.0.1:{sock.getsockname()[1]}", SHORT)
        thread.join()


def test_a_busy_server() -> None:
    with boards.server() as process:
        place = f"rpc://127.0.0.1:{process.port}"
        with session(place) as first:
            with fails_within(SHORT, f"served another client for {SHORT:g} s"):
                session(place, SHORT)
            threading.Timer(1.0, first.close).start()
            with session(place) as second:
                works(second)
        serves_again(process)


@pytest.mark.slow
def test_a_plain_tvm_server() -> None:
    pytest.importorskip("psutil")
    pytest.importorskip("cloudpickle")
    port = free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--port-end", str(port + 1)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:

        def listens() -> bool:
            state = f":{port:04X} 00000000:0000 0A"
            return state in Path("/proc/net/tcp").read_text()

        boards.until(listens, 60)
        with fails_within(10, "plain TVM RPC server", "edgeconv device serve"):
            session(f"rpc://127.0.0.1:{port}", 10)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# during a session


def test_the_server_is_killed_during_an_upload(work: Path) -> None:
    with boards.server("--work", str(work)) as process:
        with session(f"rpc://127.0.0.1:{process.port}", SHORT) as board:
            killer = threading.Timer(0.3, process.end, [signal.SIGKILL])
            killer.start()
            with fails_within(SHORT, "uploading big.so", "edgeconv device serve"):
                board.upload(bytes(1 << 29), "big.so")
            killer.join()
            with fails_within(0, "is closed; open a new one"):
                board.upload(b"1")
    # it could not clean up; the next server in that folder does
    boards.until(lambda: not boards.processes(str(work)))
    with boards.server("--work", str(work)) as process:
        assert not list(work.iterdir())
        serves_again(process, work)


def test_the_server_is_killed_during_a_run(work: Path) -> None:
    with boards.server("--work", str(work)) as process:
        model = RemoteModel(boards.broken("spin"), session(f"rpc://127.0.0.1:{process.port}", 20.0))
        (worker,) = boards.children(process.process.pid)
        killer = threading.Timer(0.5, process.end, [signal.SIGKILL])
        killer.start()
        with fails_within(1, "running the network"):
            model.run({"x": small_convolution().x})
        killer.join()
        boards.until(lambda: not Path(f"/proc/{worker}").exists())


def test_a_crash_does_not_stop_the_server(work: Path) -> None:
    with boards.server("--work", str(work)) as process:
        place = f"rpc://127.0.0.1:{process.port}"
        for _ in range(2):
            model = RemoteModel(boards.broken("crash"), session(place))
            with fails_within(1, "died of SIGSEGV", "the server lives"):
                model.run({"x": small_convolution().x})
            serves_again(process, work)
        assert "Segfault" not in process.said()  # one line of its own, no page of TVM's


def test_a_run_without_end(work: Path) -> None:
    """The network never returns: the client gives up, and the server ends the process."""
    with boards.server("--work", str(work)) as process:
        with session(f"rpc://127.0.0.1:{process.port}", SHORT) as board:
            model = RemoteModel(boards.broken("spin"), board)
            with fails_within(SHORT, f"no answer for {SHORT:g} s"):
                model.run({"x": small_convolution().x})
        serves_again(process, work)


@pytest.mark.parametrize("doing", ["upload", "copy"])
def test_a_stall(doing: str, work: Path) -> None:
    """The board stops answering (as a dead network does) in the middle of a transfer."""
    with boards.server("--work", str(work)) as process:
        with session(f"rpc://127.0.0.1:{process.port}", SHORT) as board:
            (worker,) = boards.children(process.process.pid)
            timer = threading.Timer(0.2, os.kill, [worker, signal.SIGSTOP])
            timer.start()
            with fails_within(SHORT + 0.2, f"no answer for {SHORT:g} s"):
                if doing == "upload":
                    board.upload(bytes(1 << 29), "big.so")
                else:
                    board.tensor(np.zeros(1 << 29, np.uint8))
            timer.join()
        serves_again(process, work)


def test_the_client_vanishes(work: Path) -> None:
    """Killed, not closed: the server notices, even while the network runs."""
    code = (
        "import sys; from edgeconv.device import RemoteModel, session\n"
        "from tests.device import boards\n"
        "from edgeconv.device.trial import small_convolution\n"
        "model = RemoteModel(boards.broken('spin'), session(sys.argv[1]))\n"
        "print('running', flush=True)\n"
        "model.run({'x': small_convolution().x})\n"
    )
    with boards.server("--work", str(work)) as process:
        client = _client(code, f"rpc://127.0.0.1:{process.port}")
        assert client.stdout is not None
        assert client.stdout.readline() == "running\n"
        client.kill()
        client.wait()
        client.stdout.close()
        serves_again(process, work)


# tests that run in the background may have been told to ignore SIGINT, and clients inherit that
HEARS = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "


@pytest.mark.parametrize(
    "before",
    ["", "signal.siginterrupt(signal.SIGINT, False); "],
    ids=["waiting", "just_before_waiting"],  # the second: the signal interrupts no system call
)
def test_interrupted(work: Path, tmp_path: Path, before: str) -> None:
    """Ctrl-C during a run: the command ends with 130 at once."""
    artifact = boards.broken("spin").save(tmp_path / "spin.edgeconv")
    code = f"{HEARS}from edgeconv.cli import main; sys.argv[:1] = ['edgeconv']; {before}main()"
    with boards.server("--work", str(work)) as process:
        place = f"rpc://127.0.0.1:{process.port}"
        client = _client(code, "run", str(artifact), "--device", place)
        boards.until(lambda: "serving" in process.said(), 60)
        boards.until(lambda: bool(list(work.glob("*/*.so"))))
        time.sleep(1)
        client.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, said = client.communicate(timeout=30)
        assert (client.returncode, said) == (130, "error: interrupted\n")
        assert time.monotonic() - start < 5 * SLACK  # Python and TVM take a while to unload
        serves_again(process, work)


def _client(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=boards.ROOT,
        env={**os.environ, "PYTHONPATH": str(boards.ROOT)},
    )


def test_the_disk_is_full(tmp_path: Path) -> None:
    """A server whose folder has 1 MiB, in a mount namespace of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "--kill-child=SIGTERM"]
    mount = f"mount -t tmpfs -o size=1m none '{folder}'"
    with contextlib.suppress(OSError):
        if subprocess.run([*namespace, "sh", "-c", mount], check=False).returncode:
            pytest.skip("this system lets nobody mount a small disk")
    program = ["sh", "-c", f'{mount} && exec "$@"', "sh"]
    program = [*namespace[:-1], *program, sys.executable, "-m", "edgeconv.device"]
    with boards.server("--work", str(folder), program=program) as process:
        place = f"rpc://127.0.0.1:{process.port}"
        with session(place) as board:
            with fails_within(1, "disk is full", "4.0 MiB were to be written", "--work"):
                board.upload(bytes(4 << 20), "big.so")
        serves_again(process)


def test_the_session_expires(work: Path) -> None:
    """TVM's own clients can limit a session; the server keeps to it."""
    from tvm import rpc

    with boards.server("--work", str(work)) as process:
        client = rpc.connect("127.0.0.1", process.port, session_timeout=1)
        name = "code.so"
        code = boards.broken("spin").shared_library
        assert code is not None
        call = client.get_function("edgeconv.device.call")
        import hashlib
        import json

        call(json.dumps({"do": "append", "name": name, "at": 0}), code)
        digest = hashlib.sha256(code).hexdigest()
        call(json.dumps({"do": "commit", "name": name, "sha256": digest}), b"")
        with pytest.raises(Exception, match="RPCSessionTimeoutError"):
            client.load_module(name)["main"]()
        del client
        serves_again(process, work)


# what does not fit


def test_an_artifact_for_another_architecture(work: Path) -> None:
    artifact = edgeconv.compile_artifact(small_convolution().model, "raspberry-pi-4", threads=1)
    with boards.server("--work", str(work)) as process:
        if targets.host().arch == "aarch64":
            pytest.skip("this machine is one")
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            with fails_within(1, "it is for aarch64, and the board's processes are x86_64"):
                RemoteModel(artifact, board)
            works(board)
            assert len(list(work.glob("*/*.so"))) == 1  # that of `works`: the other never came


CHANGED = """
from edgeconv.device import board
describe = board.describe
def changed(*arguments):
    found = describe(*arguments)
    {change}
    return found
board.describe = changed
from edgeconv.device.__main__ import main
raise SystemExit(main())
"""


def changed_server(change: str) -> contextlib.AbstractContextManager[boards.Process]:
    """A server on a board that describes itself differently."""
    return boards.server(program=(sys.executable, "-c", CHANGED.format(change=change)))


def test_an_artifact_for_another_cpu() -> None:
    """The same architecture, without the features the code may use."""
    if targets.host().lanes < 8:
        pytest.skip("this machine's code uses nothing that another one could lack")
    with changed_server("found['flags'] = ['pni', 'sse4_1', 'sse', 'sse2']") as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            with fails_within(1, "may use", "avx2", "does not have"):
                RemoteModel(boards.network(), board)
            name = board.upload(boards.broken("crash").linked(), "net.so")
            with fails_within(1, "avx2"):
                board.load(name, targets.host())


def test_versions() -> None:
    with changed_server("found['versions']['apache-tvm'] = '0.26.1'") as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            with fails_within(1, "compiled by TVM 0.27", "the board has 0.26.1: install"):
                RemoteModel(boards.network(), board)
    with changed_server("found['protocol'] = 99") as process:
        with fails_within(1, "install the same version on both sides"):
            session(f"rpc://127.0.0.1:{process.port}")


def test_damage_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that change on the way: files and weights are refused, not used."""
    with boards.server() as process:
        place = f"rpc://127.0.0.1:{process.port}"
        real = Session._ask

        def damaged(self: Session, doing: str, data: bytes = b"", **rest: object) -> object:
            data = data[:-1] + b"\x01" if data.endswith(b"\0") else data
            return real(self, doing, data, **rest)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Session, "_ask", damaged)
            with session(place) as board, fails_within(1, "arrived damaged"):
                board.upload(bytes(100), "net.so")
        with session(place) as board:
            weights = board.tensor(np.arange(1000, dtype=np.float32))
            board.check(weights, np.arange(1000, dtype=np.float32))
            with fails_within(1, "arrived damaged"):
                board.check(weights, np.zeros(1000, np.float32))


def test_files_are_checked_before_they_are_loaded() -> None:
    """What TVM's clients upload by themselves has no hash: it is not loaded."""
    with boards.server() as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            code = boards.network().shared_library
            assert code is not None
            board.rpc.upload(bytearray(code), "unchecked.so")
            with fails_within(1, "its hash was not checked"):
                board.load("unchecked.so", targets.host())
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            arm = bytearray(boards.network().shared_library or b"")
            arm[18:20] = (183).to_bytes(2, "little")
            name = board.upload(bytes(arm), "arm.so")
            with fails_within(1, "it is for aarch64"):
                board.load(name, targets.host())
        for name in ("../net.so", "/tmp/net.so", "", ".net"):
            with session(f"rpc://127.0.0.1:{process.port}") as board:
                with fails_within(1, "is not the name of an uploaded file"):
                    board._ask("uploading", b"1", do="append", name=name, at=0)


def test_unlinked_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object file is linked on the way; without a linker it is refused with the pip line."""
    from edgeconv.linking import object_code

    compiled = edgeconv.compile_artifact(small_convolution().model, threads=1)
    artifact = replace(compiled, module=None, object_file=object_code(compiled.module))
    with boards.server() as process:
        with session(f"rpc://127.0.0.1:{process.port}") as board:
            trial = small_convolution()
            model = RemoteModel(artifact, board)
            assert trial.error(model.run({"x": trial.x})["y"]) < 1e-5
            monkeypatch.setattr("edgeconv.artifact.find_linker", lambda device: None)
            with pytest.raises(edgeconv.BuildError, match=r"pip install 'edgeconv\[cross\]'"):
                RemoteModel(artifact, board)
