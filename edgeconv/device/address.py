"""How a board is named: rpc:// and ssh:// addresses, and the names in the user's config file."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from edgeconv.errors import DeviceError

SERVER_PORT, TRACKER_PORT = 9090, 9190
FORMS = "rpc://HOST:PORT/KEY (tracker), rpc://HOST:PORT (server) or ssh://USER@HOST"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY_FORM = "letters, digits and . _ -, at most 64"


@dataclass(frozen=True)
class Address:
    """Where a board is.

    Attributes:
        scheme: "rpc" or "ssh".
        host: of the tracker, the server, or for ssh the board.
        port: of the tracker or the server; for ssh of the server, on the board's loopback.
        key: what boards are registered as; empty without tracker.
        user: for ssh; may be empty.
        ssh_port: for ssh; None: what ssh takes.
    """

    scheme: str
    host: str
    port: int
    key: str = ""
    user: str = ""
    ssh_port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.scheme == "rpc":
            return f"rpc://{host}:{self.port}" + (f"/{quote(self.key)}" if self.key else "")
        user = f"{self.user}@" if self.user else ""
        port = f":{self.ssh_port}" if self.ssh_port else ""
        return f"ssh://{user}{host}{port}" + ("" if self.port == SERVER_PORT else f"/{self.port}")


def is_key(text: str) -> bool:
    """Whether boards can be registered, and asked for, as this."""
    return _KEY.fullmatch(text) is not None


def parse(text: str) -> Address:
    """The address in `text`.

    Raises:
        DeviceError: it is malformed.
    """
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise DeviceError(f"'{text}' is not the address of a device: {error}") from None
    rest = unquote(parts.path.strip("/"))
    fault = ""
    if parts.scheme not in ("rpc", "ssh"):
        fault = f"it starts with neither rpc:// nor ssh://; addresses are {FORMS}"
    elif parts.query or parts.fragment or parts.password is not None:
        fault = f"a password, '?' and '#' have no meaning here; addresses are {FORMS}"
    elif not _HOST.fullmatch(host):
        fault = f"it names no host; addresses are {FORMS}"
    elif port == 0:
        fault = "ports are from 1 to 65535"
    if fault:
        raise DeviceError(f"'{text}' is not the address of a device: {fault}")
    return _rpc(text, host, port, rest, parts) if parts.scheme == "rpc" else _ssh(text, parts, rest)


def _rpc(text: str, host: str, port: int | None, key: str, parts: SplitResult) -> Address:
    if parts.username is not None:
        raise DeviceError(f"'{text}': RPC has no users; through ssh it is ssh://USER@HOST")
    if key and not is_key(key):
        raise DeviceError(f"'{text}': '{key}' can't be a key: {KEY_FORM}")
    if port is None:
        raise DeviceError(
            f"'{text}' names no port: trackers listen at {TRACKER_PORT}, servers at {SERVER_PORT} "
            "unless told otherwise"
        )
    return Address("rpc", host, port, key)


def _ssh(text: str, parts: SplitResult, rest: str) -> Address:
    user = parts.username or ""
    if user and not _KEY.fullmatch(user):
        raise DeviceError(f"'{text}': '{user}' is not the name of a user")
    if rest and not (rest.isascii() and rest.isdigit() and 0 < int(rest) < 65536):
        raise DeviceError(f"'{text}': after the host stands the port of the server on the board")
    port = int(rest) if rest else SERVER_PORT
    return Address("ssh", parts.hostname or "", port, "", user, parts.port)


def config_file() -> Path:
    """The user's file of names: ~/.config/edgeconv/devices.toml, or under $XDG_CONFIG_HOME."""
    base = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(base) if base and os.path.isabs(base) else Path.home() / ".config"
    return folder / "edgeconv" / "devices.toml"


def known(path: Path | None = None) -> dict[str, Address]:
    """The names in the config file; none without the file.

    Raises:
        DeviceError: the file can't be read, or holds something else.
    """
    if sys.version_info >= (3, 11):  # not above: servers import this module, and need no tomli
        import tomllib
    else:
        import tomli as tomllib
    path = config_file() if path is None else path
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DeviceError(f"{path}: can't read the names of devices: {error.strerror}") from error
    except ValueError as error:
        raise DeviceError(f"{path}: not a valid TOML file: {error}") from error
    devices = values.get("devices", {})
    if set(values) - {"devices"} or not isinstance(devices, dict):
        raise DeviceError(f'{path}: only [devices] is known, with lines NAME = "rpc://…"')
    found = {}
    for name, address in devices.items():
        if not isinstance(address, str):
            raise DeviceError(f"{path}: the address of '{name}' must be a string")
        try:
            found[name] = parse(address)
        except DeviceError as error:
            raise DeviceError(f"{path}: device '{name}': {error}") from None
    return found


def resolve(device: str) -> Address:
    """The address a name or an address stands for.

    Raises:
        DeviceError: malformed, or an unknown name.
    """
    if not isinstance(device, str):
        raise DeviceError(f"a device is a name or an address, not {type(device).__name__}")
    if "://" in device:
        return parse(device)
    names = known()
    if device in names:
        return names[device]
    close = difflib.get_close_matches(device, names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    listed = f"known: {', '.join(sorted(names))}" if names else "none are known yet"
    raise DeviceError(
        f"unknown device '{device}'{hint}; {listed}. `edgeconv device add NAME ADDRESS` names one, "
        f"or give the address: {FORMS}"
    )


def add(name: str, address: Address | None, path: Path | None = None) -> Path:
    """Keep a name in the config file; without address, forget it. Other names stay.

    Raises:
        DeviceError: the name is malformed or (to forget) unknown, or the file can't be written.
    """
    path = config_file() if path is None else path
    if not _NAME.fullmatch(name):
        raise DeviceError(f"'{name}' can't be a name: {KEY_FORM}")
    names = known(path)
    if address is not None:
        names[name] = address
    elif names.pop(name, None) is None:
        raise DeviceError(f"no device '{name}' in {path}")
    lines = [f"{json.dumps(n)} = {json.dumps(str(a))}\n" for n, a in sorted(names.items())]
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".devices-", delete=False, encoding="utf-8"
        ) as file:
            temporary = Path(file.name)
            file.writelines(["# Written by `edgeconv device add`.\n[devices]\n", *lines])
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DeviceError(f"can't write {path}: {error.strerror or error}") from error
        raise
    return path
