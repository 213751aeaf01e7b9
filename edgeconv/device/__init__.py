"""Boards: CPUs that are reached over TVM's RPC, and the server that runs on them.

A board is named by an address, or by a name that `edgeconv device add` gave to one:

    rpc://HOST:PORT/KEY          any free board that is registered with a tracker under that key
    rpc://HOST:PORT              a server without tracker
    ssh://USER@HOST[:PORT]       a server on the loopback interface of a board, through `ssh`
    ssh://USER@HOST[:PORT]/9191  the same, at another port than 9090

Everything goes through one session on a board:

    with edgeconv.device.session("rpi4", timeout=30) as board:
        board.info                       what it is: `BoardInfo`
        name = board.upload("net.so")    path or bytes → name over there; its hash is checked there
        module = board.load(name, device)        refused unless compiled for such a CPU
        x = board.tensor(array)                  a tensor in the board's memory
        y = board.empty((1, 64, 56, 56), "float32")
        module["main"](x, y)                     runs over there
        board.time(module, "main", [x, y])       tuple of seconds a call, by the board's own clock
        board.rpc                                TVM's RPCSession, for what takes one

Each call ends within `timeout` seconds without progress of the other side; then, and for whatever
else goes wrong, it raises DeviceError, and the session is closed. A closed session leaves nothing
behind: the server ends the process of the session, and removes its files. Sessions are not shared
between threads.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeconv.device.address import Address, resolve
    from edgeconv.device.info import BoardInfo
    from edgeconv.device.model import RemoteModel
    from edgeconv.device.sessions import Session, session

__all__ = ["Address", "BoardInfo", "RemoteModel", "Session", "resolve", "session"]

# Loaded when first used: a board has no TVM compiler, and the server needs none of these.
_HOMES = {
    "Address": "address",
    "resolve": "address",
    "BoardInfo": "info",
    "RemoteModel": "model",
    "Session": "sessions",
    "session": "sessions",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
