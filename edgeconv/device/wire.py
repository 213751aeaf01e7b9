"""What TVM's RPC servers, clients and trackers say to each other before a session.

The standard library is all that is needed: the relay and the server's listener use it too.
Source: tvm/rpc/base.py, server.py and tracker.py of TVM 0.27.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

RPC_MAGIC = 0xFF271
SUCCESS, BUSY, MISMATCH = RPC_MAGIC, RPC_MAGIC + 1, RPC_MAGIC + 2
"""Answers to a client's key. TVM's servers know no BUSY (its proxies say so to a second server
of one key); edgeconv's do, where TVM's leave the client waiting."""
TRACKER_MAGIC = 0x2F271
PUT, REQUEST, UPDATE_INFO, SUMMARY, PENDING_KEYS = 3, 4, 5, 6, 7
TRACKER_SUCCESS = 0
FAREWELL = "EdgeconvBoard: "
"""Begins the text of the exception by which a server says why it ended a session."""
MOST_BYTES = 1 << 20  # of a key, or of a tracker's message


class WireError(Exception):
    """The other side speaks another protocol."""


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes.

    Raises:
        ConnectionError: the other side closed the connection.
        TimeoutError: the socket's timeout passed without a byte.
    """
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(count - len(data), 1 << 16))
        if not chunk:
            raise ConnectionResetError("the connection was closed")
        data += chunk
    return bytes(data)


def receive_int(sock: socket.socket) -> int:
    """A little-endian int32."""
    return int(struct.unpack("<i", receive(sock, 4))[0])


def receive_text(sock: socket.socket) -> str:
    """A length and as many bytes of UTF-8.

    Raises:
        WireError: not text, or far too long.
    """
    size = receive_int(sock)
    if not 0 <= size <= MOST_BYTES:
        raise WireError(f"a message of {size} bytes was announced")
    try:
        return receive(sock, size).decode()
    except UnicodeDecodeError as error:
        raise WireError("a message is not text") from error


def number(value: int) -> bytes:
    """A little-endian int32."""
    return struct.pack("<i", value)


def text(value: str) -> bytes:
    """What `receive_text` reads."""
    data = value.encode()
    return number(len(data)) + data


def keep_alive(sock: socket.socket, seconds: int = 30) -> None:
    """Let the kernel end a connection whose other side has vanished, after about `seconds`."""
    options = {"TCP_KEEPIDLE": seconds // 2, "TCP_KEEPINTVL": max(seconds // 6, 1),
               "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": seconds * 1000}  # fmt: skip
    with contextlib.suppress(OSError):  # a pipe or a Unix socket has none of these
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def is_loopback(host: str) -> bool:
    """Whether the address is this machine's own; names are looked up."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = {str(item[4][0]) for item in found}
    return bool(addresses) and all(a.startswith("127.") or a == "::1" for a in addresses)


class TrackerConnection:
    """A connection to a tracker, as a client or as a server that registers with it."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        """Connect. Raises OSError (TimeoutError among them) and WireError."""
        self.socket = socket.create_connection((host, port), timeout)
        try:
            keep_alive(self.socket)
            self.socket.sendall(number(TRACKER_MAGIC))
            try:
                answer = receive_int(self.socket)
            except ConnectionError as error:  # TVM's servers hang up
                raise WireError("it is not a tracker") from error
            if answer != TRACKER_MAGIC:
                raise WireError("it is not a tracker")
        except BaseException:
            self.socket.close()
            raise

    def ask(self, *message: Any) -> Any:
        """The answer to a message; OSError and WireError as above."""
        self.socket.sendall(text(json.dumps(message)))
        try:
            return json.loads(receive_text(self.socket))
        except ValueError as error:
            raise WireError(f"the tracker's answer is not JSON: {error}") from error

    def close(self) -> None:
        """End the connection."""
        self.socket.close()
