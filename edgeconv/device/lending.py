"""From an address to a place to connect to: a free board of a tracker, or ssh's command."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edgeconv.device import wire
from edgeconv.device.address import Address
from edgeconv.errors import DeviceError

_POLL = 0.5  # seconds between looks at the tracker while all boards are busy
_LEAST = 0.05


@dataclass(frozen=True)
class Place:
    """Where one session goes: the relay's task, without its secret."""

    task: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Boards of one key.

    Attributes:
        key: what they are registered as.
        boards: addresses, "host:port".
        free: how many of them are free.
        waiting: clients in line.
    """

    key: str
    boards: tuple[str, ...]
    free: int
    waiting: int


def borrow(address: Address, timeout: float) -> Place:
    """A free board at that address, within `timeout` seconds.

    Raises:
        DeviceError: no tracker, an unknown key, or no board became free.
    """
    if address.scheme == "ssh":
        return Place({"ssh": ssh_command(address, timeout), "key": "client:"})
    if not address.key:
        return Place({"host": address.host, "port": address.port, "key": "client:"})
    return _from_tracker(address, timeout)


def ssh_command(address: Address, timeout: float) -> list[str]:
    """The command that connects its stdin and stdout to the server on the board's loopback."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(int(timeout), 1)}"]
    command += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    if address.ssh_port:
        command += ["-p", str(address.ssh_port)]
    if address.user:
        command += ["-l", address.user]
    return [*command, "-W", f"127.0.0.1:{address.port}", "--", address.host]


def _connect(address: Address, timeout: float) -> wire.TrackerConnection:
    place = f"{address.host}:{address.port}"
    command = f"`edgeconv device tracker --port {address.port}`"
    start = f"start one with {command}, or correct the address"
    try:
        return wire.TrackerConnection(address.host, address.port, timeout)
    except TimeoutError as error:
        raise DeviceError(
            f"no tracker answers at {place} within {timeout:g} s: is the machine on and reachable? "
            f"If there is none, {start}"
        ) from error
    except wire.WireError as error:
        raise DeviceError(
            f"what listens at {place} is no tracker: for a server without tracker leave out the "
            f"key, rpc://{place}"
        ) from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"no tracker at {place} ({reason}): {start}") from error


def groups(address: Address, timeout: float) -> list[Group]:
    """What a tracker knows, by key.

    Raises:
        DeviceError: no tracker.
    """
    tracker = _connect(address, timeout)
    try:
        return _groups(tracker)
    except (OSError, wire.WireError) as error:
        raise DeviceError(f"the tracker at {address.host}:{address.port}: {error}") from error
    finally:
        tracker.close()


def _groups(tracker: wire.TrackerConnection) -> list[Group]:
    answer = tracker.ask(wire.SUMMARY)
    try:
        if answer[0] != wire.TRACKER_SUCCESS:
            raise ValueError(answer)
        queues, servers = answer[1]["queue_info"], answer[1]["server_info"]
        boards: dict[str, list[str]] = {key: [] for key in queues}
        for server in servers:
            key = str(server["key"]).removeprefix("server:")
            boards.setdefault(key, []).append(":".join(map(str, server["addr"])))
        empty = {"free": 0, "pending": 0}
        return [
            Group(key, tuple(sorted(found)), int(queue["free"]), int(queue["pending"]))
            for key, found in sorted(boards.items())
            for queue in [queues.get(key, empty)]
            if found or queue["free"]
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise wire.WireError(f"its answer is not understood: {answer!r:.100}") from error


def _from_tracker(address: Address, timeout: float) -> Place:
    """Look first, ask then: a tracker lets who asks for an unknown key wait for ever."""
    ends = time.monotonic() + timeout
    tracker = _connect(address, timeout)
    try:
        while True:
            found = {g.key: g for g in _groups(tracker)}
            if address.key not in found:
                raise _unknown_key(address, sorted(found))
            if found[address.key].free > 0:
                tracker.socket.settimeout(max(ends - time.monotonic(), _LEAST))
                code, value = tracker.ask(wire.REQUEST, address.key, "", 1)
                if code != wire.TRACKER_SUCCESS:
                    raise wire.WireError(f"it refused: {value!r}")
                return _place(address, value)
            if time.monotonic() + _POLL > ends:
                raise _all_busy(address, found[address.key], timeout)
            time.sleep(_POLL)
    except TimeoutError as error:  # somebody else was faster, or the tracker is stuck
        raise _all_busy(address, None, timeout) from error
    except (OSError, wire.WireError, ValueError, TypeError) as error:
        raise DeviceError(
            f"the tracker at {address.host}:{address.port} failed: {error}; is it still running?"
        ) from error
    finally:
        tracker.close()


def _place(address: Address, value: Any) -> Place:
    host, port, match_key = value
    if wire.is_loopback(str(host)) and not wire.is_loopback(address.host):
        host = address.host  # tracker and board are the same machine, seen from here
    return Place({"host": str(host), "port": int(port), "key": f"client:{match_key}"})


def _unknown_key(address: Address, keys: list[str]) -> DeviceError:
    place = f"{address.host}:{address.port}"
    known = f"it has {', '.join(keys)}" if keys else "no board is registered"
    return DeviceError(
        f"the tracker at {place} has no board with the key '{address.key}': {known}. On the board, "
        f"`edgeconv device serve --tracker {place} --key {address.key}` registers it; "
        "`edgeconv device list` shows what is there"
    )


def _all_busy(address: Address, group: Group | None, timeout: float) -> DeviceError:
    count = 0 if group is None else len(group.boards)
    which = {0: "every board", 1: "the board"}.get(count, f"all {count} boards")
    return DeviceError(
        f"{which} with the key '{address.key}' stayed busy for {timeout:g} s; wait longer with "
        "timeout= or --timeout, or see `edgeconv device list`"
    )
