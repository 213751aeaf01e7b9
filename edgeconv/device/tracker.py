"""TVM's RPC tracker, run in this process."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable
from types import FrameType

from edgeconv.device.listening import listen
from edgeconv.errors import DeviceError


def serve_tracker(host: str, port: int, ready: Callable[[int], None]) -> None:
    """Run the tracker until SIGINT or SIGTERM; `ready` is told the port (0 takes a free one).

    Raises:
        DeviceError: it can't listen there, or the package tornado is missing.
    """
    try:
        from tvm.rpc import tracker
    except ImportError as error:
        raise DeviceError(f"TVM's tracker needs tornado: pip install tornado ({error})") from error
    tracker.logger.setLevel(logging.WARNING)
    sock = listen(host, port)
    asyncio.set_event_loop(asyncio.new_event_loop())
    handler = tracker.TrackerServerHandler(sock, secrets.token_hex(16))

    def stop(number: int, frame: FrameType | None) -> None:
        loop = handler._ioloop
        loop.add_callback_from_signal(loop.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        ready(int(sock.getsockname()[1]))
        handler.run()
    finally:
        for connection in list(handler._connections):
            connection.close()
        sock.close()
