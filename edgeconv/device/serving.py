"""What the two ways to start a server share: options from text, and what is said at the start."""

from __future__ import annotations

import getpass
import sys

from edgeconv.device import wire
from edgeconv.device.address import KEY_FORM, TRACKER_PORT, is_key
from edgeconv.device.listening import shown
from edgeconv.device.server import EXPOSED, EXPOSED_TRACKER, Options, serve
from edgeconv.errors import DeviceError

SERVE_HELP = "Lend this machine to edgeconv on another one, one client at a time."


def host_and_port(text: str, default: int = TRACKER_PORT) -> tuple[str, int]:
    """("host", 9190) of "host:9190", "host" or "[::1]:9190".

    Raises:
        DeviceError: it is neither.
    """
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default)
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise DeviceError(f"'{text}' is not of the form HOST:PORT")
    return host, int(port)


def options(
    tracker: str | None, key: str, listen: str, port: int, work: str | None, once: bool
) -> Options:
    """Options from the command line's; DeviceError where they are malformed."""
    if not 0 <= port < 65536:
        raise DeviceError(f"a port is a number from 0 to 65535, not {port}")
    if key and not is_key(key):
        raise DeviceError(f"'{key}' can't be a key: {KEY_FORM}")
    place = None if tracker is None else host_and_port(tracker)
    return Options(listen, port, key, place, work, once)


def warn_if_exposed(listen: str, port: int, *, tracker: bool = False) -> None:
    """One sentence on stderr where others can connect."""
    if not wire.is_loopback(listen):
        try:
            user = f"'{getpass.getuser()}'"
        except (KeyError, OSError):
            user = "you"
        place = f"port {port}" if listen in ("0.0.0.0", "::") else shown(listen, port)
        print(
            f"warning: {(EXPOSED_TRACKER if tracker else EXPOSED).format(place, user)}",
            file=sys.stderr,
            flush=True,
        )


def serve_here(given: Options) -> None:
    """Serve, and say where on stdout: "listening at 127.0.0.1:9090".

    Raises:
        DeviceError: the server can't start.
    """

    def ready(port: int) -> None:
        warn_if_exposed(given.host, port)
        print(f"listening at {shown(given.host, port)}", flush=True)

    given.ready = ready
    serve(given)
