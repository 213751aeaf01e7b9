"""Where servers and trackers listen."""

from __future__ import annotations

import socket

from edgeconv.errors import DeviceError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        DeviceError: it can't.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(16)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(
            f"can't listen at {host}:{port}: {reason}; --port takes another port"
        ) from error
    return sock
