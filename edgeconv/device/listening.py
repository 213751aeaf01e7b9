"""Where servers and trackers listen."""

from __future__ import annotations

import errno
import socket

from edgeconv.errors import DeviceError

_LISTEN = "--listen takes an address of this machine, or 0.0.0.0: all of them"


def shown(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        DeviceError: it can't.
    """
    if not host:  # to the system that is every address
        raise DeviceError(f"an empty address is none; {_LISTEN}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(16)
    except (OSError, UnicodeError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        unknown = isinstance(error, (socket.gaierror, UnicodeError))
        elsewhere = unknown or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        advice = _LISTEN if elsewhere else "--port takes another port"
        raise DeviceError(f"can't listen at {shown(host, port)}: {reason}; {advice}") from error
    return sock
