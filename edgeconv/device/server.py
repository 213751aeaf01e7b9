"""The server on a board: a listener that lends the board to one client at a time.

Each session is a child process in a group of its own, with a folder of its own. However it ends
(crash, kill, vanished client, expiry), the listener ends the group, removes the folder, tells the
client why, and offers the board again. TVM's own server does the work of a session in the same
way, but its listener dies with the first session that crashes.

Speaks TVM's RPC: TVM's trackers and clients work with it. Needs the standard library,
apache-tvm-ffi and the runtime library in apache-tvm.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from edgeconv.device import wire, worker
from edgeconv.device.listening import listen
from edgeconv.errors import DeviceError

log = logging.getLogger("edgeconv.device")

EXPOSED = (
    "Anyone who can reach {0} can run programs on this machine as {1}: listen in networks you "
    "trust only, or on the loopback interface and through ssh (docs/devices.md)."
)
EXPOSED_TRACKER = (
    "Anyone who can reach {0} can take boards, and offer machines of their own as boards, which "
    "then see your models: listen in networks you trust only."
)
_PREFIX = "edgeconv-device-"
_TICK = 0.5  # seconds between looks at the session and the tracker
_HANDSHAKE = 5.0  # seconds a client has to say its key
_TRACKER_RETRY, _TRACKER_ASK = 2.0, 2.0  # seconds between attempts, and between questions
_UNUSED = 10.0  # seconds after which a key that the tracker gave away and nobody used is replaced
_FAREWELL = 1.0  # seconds a client has to take the reason why its session ended
_GRACE = 2.0  # seconds a session has to end after its client is gone


@dataclass
class Session:
    """A client being served."""

    connection: socket.socket
    client: str
    process: int
    folder: Path
    expires: float | None
    orphaned: float | None = None
    poll: select.poll = field(default_factory=select.poll)


@dataclass
class Options:
    """What `serve` does.

    Attributes:
        host: address to listen at; anything but loopback exposes the board.
        port: 0 takes a free one.
        key: what the board is registered as; may be empty without tracker.
        tracker: (host, port), or None.
        work: folder for the sessions' folders; default: the system's temporary folder.
        once: end after the first session.
        ready: called with the port when the server listens.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    key: str = ""
    tracker: tuple[str, int] | None = None
    work: str | None = None
    once: bool = False
    ready: Callable[[int], None] = lambda _: None


class Server:
    """The listener: one thread, which waits for clients, the session's end and the tracker."""

    def __init__(self, options: Options) -> None:
        check_reachable(options)
        self.options = options
        self.ffi = worker.load_runtime()
        self.work = _work_folder(options.work)
        self.socket = listen(options.host, options.port)
        self.port = int(self.socket.getsockname()[1])
        self.session: Session | None = None
        self.served = 0
        self.stopped = False
        self.match_key = options.key
        self.tracker: wire.TrackerConnection | None = None
        self.tracker_next = 0.0
        self.pending_since = 0.0

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT, or `stopped`; then nothing is left behind."""
        woken, wake = os.pipe()  # a signal ends the wait below: stop, or the end of a session
        for end in (woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            self.options.ready(self.port)
            while not self.stopped:
                self._look_at_session()
                if self.session is None:
                    if self.options.once and self.served:
                        return
                    self._look_at_tracker()
                ready = select.select([self.socket.fileno(), woken], [], [], _TICK)[0]
                if woken in ready:
                    os.read(woken, 1024)
                elif ready:
                    self._accept()
        finally:
            signal.set_wakeup_fd(-1)
            os.close(woken)
            os.close(wake)
            if self.session is not None:
                self._end_session("the server was stopped")
            if self.tracker is not None:
                self.tracker.close()
            self.socket.close()

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.stopped = True

    # clients

    def _accept(self) -> None:
        connection, address = self.socket.accept()
        client = f"{address[0]}:{address[1]}"
        try:
            connection.settimeout(_HANDSHAKE)
            if wire.receive_int(connection) != wire.RPC_MAGIC:
                raise wire.WireError("it doesn't speak TVM's RPC")
            key, *rest = wire.receive_text(connection).split() or [""]
            answer = self._answer(key)
            connection.sendall(wire.number(answer))
            if answer != wire.SUCCESS:
                connection.close()
                return
            connection.sendall(wire.text(f"server:{self.options.key}"))
            connection.settimeout(None)
            wire.keep_alive(connection)
            self._start_session(connection, client, _expiry(rest))
        except (OSError, wire.WireError) as error:
            log.warning("refused %s: %s", client, error)
            connection.close()

    def _answer(self, key: str) -> int:
        if self.session is not None:
            return wire.BUSY
        open_to = {f"client:{self.match_key}"}
        if self.options.tracker is None:
            open_to.add("client:")
        return wire.SUCCESS if key in open_to else wire.MISMATCH

    def _start_session(self, connection: socket.socket, client: str, seconds: float | None) -> None:
        parent, folder = os.getpid(), None
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{parent}-", dir=self.work))
            process = os.fork()
        except OSError as error:
            if folder is not None:
                folder.rmdir()
            self._tell(connection, f"can't start a session in {self.work}: {error.strerror}")
            raise
        if process == 0:
            self._serve_session(connection, folder, parent)
        expires = None if seconds is None else time.monotonic() + seconds
        self.session = Session(connection, client, process, folder, expires)
        self.session.poll.register(connection, select.POLLRDHUP)
        self.served += 1
        log.info("serving %s", client)

    def _serve_session(self, connection: socket.socket, folder: Path, parent: int) -> None:
        """The child's whole life."""
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # TVM's handler would log a page
            worker.die_with_parent(parent)
            self.socket.close()
            if self.tracker is not None:
                self.tracker.socket.close()
            os.chdir(folder)
            worker.serve(connection.fileno(), folder)
            status = 0
        except BaseException as error:
            print(f"session: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        finally:
            os._exit(status)

    # the session

    def _look_at_session(self) -> None:
        session = self.session
        if session is None:
            return
        process, status = os.waitpid(session.process, os.WNOHANG)
        if process:
            self._end_session(_how_it_ended(status), ended=True)
            return
        now = time.monotonic()
        if session.expires is not None and now > session.expires:
            self._end_session("RPCSessionTimeoutError: the time the client asked for has passed")
        elif session.orphaned is None and session.poll.poll(0):
            session.orphaned = now
        elif session.orphaned is not None and now > session.orphaned + _GRACE:
            self._end_session("its client is gone")

    def _end_session(self, reason: str, *, ended: bool = False) -> None:
        """End the session's processes, tell the client, remove its files."""
        session = self.session
        assert session is not None
        self.session = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session.process, signal.SIGKILL)
        if not ended:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(session.process, 0)
        if reason:
            log.warning("session of %s: %s", session.client, reason)
            self._tell(session.connection, reason)
        else:
            log.info("done with %s", session.client)
        with contextlib.suppress(OSError):
            session.connection.shutdown(socket.SHUT_RDWR)
        session.connection.close()
        shutil.rmtree(session.folder, ignore_errors=True)
        self.tracker_next = 0.0
        self.pending_since = 0.0

    def _tell(self, connection: socket.socket, reason: str) -> None:
        """Answer a client with an exception, and hang up."""
        with contextlib.suppress(Exception):  # it may be gone
            connection.settimeout(_FAREWELL)
            connection.sendall(self._exception(wire.FAREWELL + reason))
            connection.shutdown(socket.SHUT_WR)
            ends = time.monotonic() + _FAREWELL
            while time.monotonic() < ends and connection.recv(1 << 16):
                pass  # what stays unread would make the kernel discard the answer as well

    def _exception(self, text: str) -> bytes:
        """What TVM's clients raise with this text; TVM would send it without a time limit."""
        here, there = socket.socketpair()
        with here, there:
            self.ffi.get_global_func("rpc.ReturnException")(here.fileno(), text)
            here.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: there.recv(1 << 16), b""))

    # the tracker

    def _look_at_tracker(self) -> None:
        """Register with the tracker when the board is free; keep the registration fresh."""
        now = time.monotonic()
        if self.options.tracker is None or now < self.tracker_next:
            return
        try:
            if self.tracker is None:
                self.tracker = wire.TrackerConnection(*self.options.tracker, timeout=5)
                info = {"key": f"server:{self.options.key}", "addr": [self._own_host(), self.port]}
                self.tracker.ask(wire.UPDATE_INFO, info)
                log.info("registered with the tracker at %s:%d", *self.options.tracker)
                self.pending_since = 0.0
            if not self.pending_since:
                self._offer()
            elif self.match_key in self.tracker.ask(wire.PENDING_KEYS):
                self.pending_since = now
            elif now - self.pending_since > _UNUSED:
                self._offer()  # the client that got the key never came
            self.tracker_next = now + _TRACKER_ASK
        except (OSError, wire.WireError) as error:
            if self.tracker is not None or self.tracker_next == 0.0:
                reason = getattr(error, "strerror", None) or error
                log.warning("no tracker at %s:%d: %s; trying again", *self.options.tracker, reason)
            if self.tracker is not None:
                self.tracker.close()
                self.tracker = None
            self.tracker_next = time.monotonic() + _TRACKER_RETRY

    def _offer(self) -> None:
        """Put a new key into the tracker's queue: whoever gets it may connect once."""
        assert self.tracker is not None
        self.match_key = f"{self.options.key}:{random.SystemRandom().random()}"
        place = [self.port, self.match_key]
        self.tracker.ask(wire.PUT, self.options.key, place, self._own_host())
        self.pending_since = time.monotonic()

    def _own_host(self) -> str | None:
        """The address clients shall use; None: the one the tracker sees."""
        return None if self.options.host in ("0.0.0.0", "::", "") else self.options.host


def _ignore(number: int, _: FrameType | None) -> None:
    """A handler, so that the signal is delivered at all."""


def check_reachable(options: Options) -> None:
    """Refuse options under which nobody could use the board.

    Raises:
        DeviceError: the tracker would name an address that only this machine can reach, or no key.
    """
    if options.tracker is None:
        return
    if not options.key:
        raise DeviceError("a tracker lists boards by key: add --key NAME, for example --key rpi4")
    if wire.is_loopback(options.host) and not wire.is_loopback(options.tracker[0]):
        raise DeviceError(
            f"the tracker at {options.tracker[0]} would send clients to {options.host}, which only "
            "this machine reaches: add --listen ADDRESS, in a network you trust, or serve without "
            "tracker and connect through ssh"
        )


def _expiry(options: list[str]) -> float | None:
    """Seconds after which the client wants the session ended: TVM's "-timeout=30"."""
    for option in options:
        if option.startswith("-timeout="):
            with contextlib.suppress(ValueError):
                seconds = float(option.partition("=")[2])
                return seconds if seconds > 0 else None
    return None


def _how_it_ended(status: int) -> str:
    """Why a child ended, in a few words; nothing where it ended as it should."""
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the process on the board died of {name}"
    code = os.WEXITSTATUS(status)
    return f"the process on the board ended with status {code}" if code else ""


def _work_folder(given: str | None) -> str:
    """The folder for sessions, without what servers that were killed left in it.

    Raises:
        DeviceError: it can't be written.
    """
    try:
        folder = os.path.abspath(given) if given else tempfile.gettempdir()
        os.rmdir(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    except OSError as error:
        where = given or "any temporary folder"
        reason = error.strerror or error
        raise DeviceError(f"can't write into {where}: {reason}; --work takes another") from error
    for path in Path(folder).glob(f"{_PREFIX}*-*"):
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(path, ignore_errors=True)
    return folder


def serve(options: Options) -> None:
    """Run a server until it is told to stop.

    Raises:
        DeviceError: it can't start; the message says why.
    """
    try:
        server = Server(options)
    except ImportError as error:
        raise DeviceError(
            f"{error}; the board needs `pip install 'apache-tvm>=0.27,<0.28' "
            "'apache-tvm-ffi>=0.1.14.post0,<0.1.15'`"
        ) from error
    server.run()
