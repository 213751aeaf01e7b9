"""A process between TVM's native client and a board, which gives the connection timeouts.

The native client waits without limit, and holds Python's lock while it frees remote objects: only
another process can end such a wait. The relay connects (directly or through `ssh`), says the
client's key to the server, then passes bytes on. When the board owes an answer and no byte moves
for `timeout` seconds, or the connection breaks, it closes both sides and says why; the native
client then fails at once. It ends when its parent does.

stdin: "timeout SECONDS" lines. stdout: JSON lines, {"port": …, "server": …} when ready, and
{"fault": kind, "text": …} at the end if something was wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from typing import Any

from edgeconv.device import wire

_CTRL_C = bytes([2])  # the number of SIGINT: Python writes those of signals into this pipe
_SIGNALS = bytes(number for number in range(32) if number != ord("\n"))
_CHUNK = 1 << 18
_BACKLOG = 1 << 22  # bytes waiting to be sent, beyond which no more are read
_CODE = 4  # bytes
_ANSWERS = (4, 5, 8)  # kReturn, kException, kCopyAck of TVM's RPCCode (src/runtime/rpc)
_TAIL = 4096  # of the last bytes the board sent, kept
_DRAIN = 2.0  # seconds for the last bytes after one side has closed


class RelayError(Exception):
    """Why there is no connection: `kind` for the program, text for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Answers:
    """Follows the packets of the board: a length (uint64) and as many bytes, repeated.

    The bytes begin with a code (int32). TVM's client also carries out requests, which would let a
    board run functions of this process: only answers may pass.
    """

    def __init__(self) -> None:
        self.header = self.code = b""
        self.missing = 0

    def feed(self, data: bytes) -> bool:
        """Whether a packet ends exactly with these bytes.

        Raises:
            RelayError: a packet is no answer; its code is in these bytes.
        """
        view = memoryview(data)
        while view:
            if self.missing and len(self.code) < _CODE:
                step = min(_CODE - len(self.code), self.missing, len(view))
                self.code += bytes(view[:step])
                self.missing -= step
                if len(self.code) == _CODE or not self.missing:
                    self._check()
            elif self.missing:
                step = min(self.missing, len(view))
                self.missing -= step
            else:
                step = min(8 - len(self.header), len(view))
                self.header += bytes(view[:step])
                if len(self.header) == 8:
                    self.missing, self.header = int.from_bytes(self.header, "little"), b""
                    self.code = b""
            view = view[step:]
        return not self.missing and not self.header

    def _check(self) -> None:
        code = int.from_bytes(self.code, "little", signed=True)
        if len(self.code) < _CODE or code not in _ANSWERS:
            raise RelayError("request", f"code {code}")


class Relay:
    """One connection."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.timeout = float(given["timeout"])
        self.ssh: subprocess.Popen[bytes] | None = None
        self.far = self.near = socket.socket()  # replaced below
        self.control = self.tail = b""

    def run(self) -> None:
        """Connect, pass bytes on, clean up.

        Raises:
            RelayError: no connection, or it broke while the client waited.
        """
        try:
            self.far = self._connect()
            server = self._say_key()
            self._meet_client(server)
            self._pass_on()
        finally:
            for sock in (self.far, self.near):
                sock.close()
            if self.ssh is not None:
                self.ssh.kill()
                self.ssh.wait()

    # before the session

    def _connect(self) -> socket.socket:
        command: list[str] | None = self.given.get("ssh")
        if command is None:
            try:
                sock = socket.create_connection(
                    (self.given["host"], self.given["port"]), self.timeout
                )
            except (OSError, UnicodeError) as error:
                kind = "timeout" if isinstance(error, TimeoutError) else "connect"
                text = getattr(error, "strerror", None) or str(error)
                raise RelayError(kind, text) from error
            wire.keep_alive(sock, max(int(self.timeout), 6))
            return sock
        here, there = socket.socketpair()
        try:
            self.ssh = subprocess.Popen(
                command,
                stdin=there.fileno(),
                stdout=there.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise RelayError("no-ssh", error.strerror or str(error)) from error
        finally:
            there.close()
        here.settimeout(self.timeout)
        return here

    def _say_key(self) -> str:
        """The client's half of TVM's handshake; the server's key."""
        try:
            self.far.sendall(wire.number(wire.RPC_MAGIC) + wire.text(self.given["key"]))
            answer = wire.receive_int(self.far)
            if answer == wire.BUSY:
                raise RelayError("busy", "the board serves another client")
            if answer == wire.MISMATCH:
                raise RelayError("mismatch", "the server has another key")
            if answer != wire.SUCCESS:
                raise RelayError("protocol", "it doesn't answer as a TVM RPC server does")
            return wire.receive_text(self.far)
        except TimeoutError as error:
            raise RelayError("timeout", "no answer to the greeting") from error
        except wire.WireError as error:
            raise RelayError("protocol", str(error)) from error
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error

    def _broken(self, text: str) -> RelayError:
        """The connection ended; through ssh, ssh says why."""
        if self.ssh is None or self.ssh.stderr is None:
            return RelayError("closed", text)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ssh.wait(1)
        self.ssh.kill()
        said = " ".join(self.ssh.stderr.read(4000).decode(errors="replace").split())
        return RelayError("ssh" if said else "closed", said or text)

    def _meet_client(self, server: str) -> None:
        """Take the one connection that knows the secret, as a server would."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(self.timeout)
            _say({"port": listener.getsockname()[1], "server": server})
            while True:
                try:
                    near, _ = listener.accept()
                except TimeoutError as error:
                    raise RelayError("client", "no client came") from error
                near.settimeout(self.timeout)
                with contextlib.suppress(OSError, wire.WireError):
                    magic, key = wire.receive_int(near), wire.receive_text(near)
                    if magic == wire.RPC_MAGIC and key == f"client:{self.given['secret']}":
                        near.sendall(wire.number(wire.SUCCESS) + wire.text(server))
                        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self.near = near
                        return
                near.close()

    # the session

    def _pass_on(self) -> None:
        answers = Answers()
        waiting, progress, closing = False, time.monotonic(), 0.0
        buffers = {self.near: bytearray(), self.far: bytearray()}  # by where the bytes go
        for sock in buffers:
            sock.setblocking(False)
        os.set_blocking(0, False)
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            while True:
                self._register(selector, buffers, reading=not closing)
                for key, events in selector.select(self._pause(waiting, progress, closing)):
                    if key.fd == 0:
                        if not self._read_control():
                            return  # the parent is gone
                        continue
                    sock = self.near if key.fd == self.near.fileno() else self.far
                    other = self.far if sock is self.near else self.near
                    if events & selectors.EVENT_WRITE:
                        if self._send(sock, buffers[sock]):
                            progress = time.monotonic()
                    if events & selectors.EVENT_READ:
                        data = self._receive(sock)
                        if data is None:
                            continue
                        progress = time.monotonic()
                        answered = False
                        if sock is self.far:
                            answered = answers.feed(data)  # refuses what must not pass
                            self.tail = (self.tail + data)[-_TAIL:]
                        buffers[other] += data
                        if not data and sock is self.near:
                            return  # the client has finished
                        if not data:
                            closing = progress
                        elif sock is self.near:
                            waiting = True
                        elif answered and not buffers[self.far]:
                            waiting = False
                now = time.monotonic()
                if closing and (not buffers[self.near] or now > closing + _DRAIN):
                    if wire.FAREWELL.encode() in self.tail:
                        self._let_read()
                    elif waiting:
                        raise self._broken("the connection was closed")
                    return
                if waiting and now > progress + self.timeout:
                    raise RelayError("timeout", f"no answer for {self.timeout:g} s")

    def _let_read(self) -> None:
        """Keep the client's side open until it has read why the server ended the session.

        Closed with bytes of the client unread, the connection would lose what was sent to it.
        """
        with contextlib.suppress(OSError):
            self.near.shutdown(socket.SHUT_WR)
            self.near.settimeout(_DRAIN)
            ends = time.monotonic() + _DRAIN
            while time.monotonic() < ends and self.near.recv(_CHUNK):
                pass

    def _register(
        self,
        selector: selectors.BaseSelector,
        buffers: dict[socket.socket, bytearray],
        reading: bool,
    ) -> None:
        """Read where there is room for more, write where there is something to send."""
        for sock, buffer in buffers.items():
            other = self.far if sock is self.near else self.near
            events = selectors.EVENT_WRITE if buffer else 0
            if reading and len(buffers[other]) < _BACKLOG:
                events |= selectors.EVENT_READ
            registered = sock in selector.get_map()
            if registered and not events:
                selector.unregister(sock)
            elif registered:
                selector.modify(sock, events)
            elif events:
                selector.register(sock, events)

    def _pause(self, waiting: bool, progress: float, closing: float) -> float | None:
        if closing:
            return 0.1
        return max(progress + self.timeout - time.monotonic(), 0.01) if waiting else None

    def _read_control(self) -> bool:
        try:
            data = os.read(0, 4096)
        except BlockingIOError:
            return True
        if _CTRL_C in data:
            return False
        self.control += data.translate(None, _SIGNALS)
        *lines, self.control = self.control.split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"timeout":
                self.timeout = float(value)
        return bool(data)

    def _send(self, sock: socket.socket, buffer: bytearray) -> int:
        try:
            sent = sock.send(buffer[:_CHUNK])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error
        del buffer[:sent]
        return sent

    def _receive(self, sock: socket.socket) -> bytes | None:
        """Bytes, none at the end, None where there are none yet."""
        try:
            return sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            if sock is self.near:
                return b""
            raise self._broken(error.strerror or str(error)) from error


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> None:
    """The process: its task is the last argument, as JSON."""
    try:
        Relay(json.loads(sys.argv[-1])).run()
    except RelayError as error:
        _say({"fault": error.kind, "text": str(error)})
        sys.exit(1)
