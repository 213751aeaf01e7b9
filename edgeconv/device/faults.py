"""What went wrong with a board, in words: what, where, and what to do next."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from edgeconv.device import wire
from edgeconv.device.address import Address
from edgeconv.errors import DeviceError

_SERVE = "`edgeconv device serve`"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        address: the board's.
        kind: as the relay names it; "rpc": TVM's client raised; "board": the board's functions did.
        text: what was said.
        doing: what was being done: "uploading net.so".
        timeout: seconds.
        errno: of the board's operating system, where that refused something.
        size: bytes of the upload, or 0.
    """

    address: Address
    kind: str
    text: str
    doing: str
    timeout: float
    errno: int | None = None
    size: int = 0


def explain(fault: Fault) -> DeviceError:
    """The error to raise."""
    address, kind = fault.address, fault.kind
    reason, advice = f"{fault.text}", ""
    if kind == "timeout" and fault.doing == "connecting":
        reason = f"no answer within {fault.timeout:g} s"
        advice = f"is the board on, and {_reach(address)}? A longer wait: timeout= or --timeout"
    elif kind == "timeout":
        reason = f"no answer for {fault.timeout:g} s"
        advice = (
            "the board or the network is stuck, or the network runs longer than that: look at the "
            "board, or allow more time with timeout= or --timeout"
        )
    elif kind == "connect":
        advice = f"is {_SERVE} running there, and {_reach(address)}?"
    elif kind == "busy":
        reason = f"the board served another client for {fault.timeout:g} s"
        advice = "try again when it is free, or wait longer with timeout= or --timeout"
    elif kind == "mismatch":
        reason = f"the server there does not lend itself as '{address.key}'"
        advice = (
            "boards behind a tracker are asked for by rpc://TRACKER:PORT/KEY"
            if not address.key
            else "another client may have been faster: try again"
        )
    elif kind == "protocol":
        advice = f"does {_SERVE} listen at that port, or something else?"
    elif kind == "request":
        reason = f"it asked this machine to do something ({fault.text}), where answers are expected"
        advice = f"nothing was done; is that {_SERVE}, and a machine you trust?"
    elif kind == "ssh":
        reason = f"ssh said: {fault.text}"
        advice = (
            f"does `ssh {_ssh_target(address)}` log in without a password, and {_SERVE} run there?"
        )
    elif kind == "no-ssh":
        reason = f"can't start ssh: {fault.text}"
        advice = "install the OpenSSH client"
    elif kind == "board" and fault.errno == errno.ENOSPC:
        reason = "the board's disk is full" + (
            f" ({fault.size / 2**20:.1f} MiB were to be written)" if fault.size else ""
        )
        advice = f"free space there, or start {_SERVE} with --work in a folder on another disk"
    elif kind == "closed":
        reason = "the board closed the connection"
        advice = f"was {_SERVE} stopped, or the board restarted? Try again"
    elif kind == "rpc":
        reason, advice = _from_rpc(fault.text)
    where = f"{address}: {fault.doing} failed" if fault.doing else str(address)
    return DeviceError(f"{where}: {reason}" + (f"; {advice}" if advice else ""), kind)


def _reach(address: Address) -> str:
    if address.scheme == "ssh":
        return f"does `ssh {_ssh_target(address)}` reach it"
    place = f"reachable from here at {address.host}:{address.port}"
    if wire.is_loopback(address.host):
        return place
    return f"{place} (it listens on its loopback interface alone unless started with --listen)"


def _ssh_target(address: Address) -> str:
    port = f"-p {address.ssh_port} " if address.ssh_port else ""
    return f"{port}{address.user}@{address.host}" if address.user else f"{port}{address.host}"


def _from_rpc(text: str) -> tuple[str, str]:
    """What TVM's client said, without its wrappings, and advice."""
    found = re.search(wire.FAREWELL + "(.*)", text, re.DOTALL)
    if found:
        reason = " ".join(found.group(1).split())
        if "died of" in reason:
            return reason, (
                "the compiled code crashed there, the server lives: is the artifact for that CPU "
                "(`edgeconv device check`)? If it is, please report it"
            )
        if reason.startswith("can't start a session"):
            return reason, f"free space there, or start {_SERVE} with --work in another folder"
        if "RPCSessionTimeoutError" in reason:
            return "the session's time is over", "open a new one"
        return reason, f"start {_SERVE} there again if it does not come back by itself"
    if "protocol version" in text.lower():
        return "the two TVMs speak different versions of RPC", "install the same apache-tvm there"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    short = lines[-1] if lines else "no message"
    short = re.sub(r"^(RPCError|InternalError|RuntimeError|ValueError): ", "", short)
    if "Broken pipe" in short or "Connection reset" in short or "kShutdown" in text:
        return "the connection was closed", f"is {_SERVE} still running there? Try again"
    return short[:300], ""
