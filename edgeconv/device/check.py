"""`edgeconv device check`: is the board what it should be, and does it compute what it should?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import metadata

from edgeconv.artifact import Artifact
from edgeconv.checks import FAULT, OK, WARNING, Check
from edgeconv.device.detect import best_target
from edgeconv.device.model import RemoteModel
from edgeconv.device.sessions import Session
from edgeconv.device.trial import TOLERANCE, Trial, small_convolution
from edgeconv.errors import EdgeconvError
from edgeconv.targets import Device
from edgeconv.version import __version__

HOT = 80.0  # °C; a Raspberry Pi lowers its clock from there on
ROOMY = 256 << 20  # bytes of disk
_FIRMWARE = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "temperature limit",
}
_PACKAGES = ("apache-tvm", "apache-tvm-ffi")
_ECHO = 1 << 20  # bytes of one message of the bandwidth measurement
_ECHO_SECONDS = 1.0

Compile = Callable[[Trial, Device], Artifact]


def check(board: Session, target: Device | None, compile_trial: Compile) -> Iterator[Check]:
    """All findings; `target` is what networks will be compiled for, default: what fits best."""
    yield Check("Board", "address", OK, str(board.address))
    yield from _versions(board)
    yield from _board(board)
    yield from _clock(board)
    try:
        device = target or best_target(board.info)
    except EdgeconvError as error:
        yield Check("Target", "target", FAULT, str(error), "name another with --target")
        return
    runnable = True
    for finding in _target(board, device):
        runnable &= finding.status != FAULT
        yield finding
    if runnable:
        yield from _convolution(board, device, compile_trial)
    yield from _network(board)


def _versions(board: Session) -> Iterator[Check]:
    theirs = board.info.versions
    yield _version("edgeconv", __version__, theirs["edgeconv"])
    for package in _PACKAGES:
        yield _version(package, metadata.version(package), theirs[package])
    yield Check("Versions", "python", OK, f"{theirs['python']} on the board")


def _version(package: str, here: str, there: str | None) -> Check:
    if there is None:
        return Check(
            "Versions", package, FAULT, "missing on the board", f"pip install {package} there"
        )
    text = here if here == there else f"{here} here, {there} on the board"
    if here == there:
        return Check("Versions", package, OK, text)
    same_minor = here.split(".")[:2] == there.split(".")[:2]
    status = WARNING if same_minor else FAULT
    return Check("Versions", package, status, text, f"pip install '{package}=={here}' there")


def _board(board: Session) -> Iterator[Check]:
    info, raw = board.info, board.info.raw
    yield Check("Board", "model", OK, f"{info.model or 'unknown'}; {info.system}")
    if info.emulated:
        yield Check(
            *("Board", "emulation", WARNING, "an emulator runs the server"),
            "results count, times don't",
        )
    features = ", ".join(sorted(info.features)) if info.arch != "x86_64" else _x86(info.features)
    yield Check("Board", "processor", OK, f"{info.arch}, {info.cpu_text}, {_cores(info.cores)}")
    yield Check("Board", "features", OK, features or "none known")
    total, free = raw["memory_kib"] or 0, raw["free_memory_kib"] or 0
    yield Check("Board", "memory", OK, f"{total / 1024:,.0f} MiB, {free / 1024:,.0f} free")
    disk = int(raw["free_disk"])
    yield Check(
        *("Board", "disk", OK if disk >= ROOMY else WARNING),
        f"{disk / 2**20:,.0f} MiB free in {raw['work']}",
        "" if disk >= ROOMY else "start the server with --work in a folder on another disk",
    )


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"


def _x86(features: frozenset[str]) -> str:
    wanted = ("sse4.1", "avx", "avx2", "fma", "avx512f", "avx512vnni")
    return ", ".join(name for name in wanted if name in features)


def _clock(board: Session) -> Iterator[Check]:
    clock = board.info.raw["clock"]
    governors, khz = clock["governors"], clock["khz"]
    if not governors:
        yield Check("Clock", "governor", OK, "not published by this system")
    else:
        text = f"{', '.join(governors)}; now " + "/".join(f"{k / 1e6:.1f}" for k in khz) + " GHz"
        if governors == ["performance"]:
            yield Check("Clock", "governor", OK, text)
        else:
            yield Check(
                *("Clock", "governor", WARNING, text),
                "for steady measurements, on the board: echo performance | "
                "sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            )
    if clock["celsius"] is not None:
        hot = clock["celsius"] >= HOT
        yield Check(
            *("Clock", "temperature", WARNING if hot else OK, f"{clock['celsius']:.0f} °C"),
            "cool it: hot boards lower their clock" if hot else "",
        )
    if clock["throttled"] is not None:
        yield _throttling(int(clock["throttled"]))


def _throttling(word: int) -> Check:
    now = [text for bit, text in _FIRMWARE.items() if word >> bit & 1]
    before = [text for bit, text in _FIRMWARE.items() if word >> (bit + 16) & 1]
    if now:
        return Check(
            *("Clock", "throttling", WARNING, f"now: {', '.join(now)}"),
            "use a stronger power supply, or cool it",
        )
    if before:
        return Check(
            *("Clock", "throttling", WARNING, f"since it was switched on: {', '.join(before)}"),
            "times may have suffered; see power supply and cooling",
        )
    return Check("Clock", "throttling", OK, "none since it was switched on")


def _target(board: Session, device: Device) -> Iterator[Check]:
    info = board.info
    reason = info.mismatch(device)
    if reason is not None:
        yield Check(
            *("Target", device.name, FAULT, f"can't run there: {reason}"),
            "take another target, or `edgeconv device detect`",
        )
        return
    text = f"{device.cpu}, {device.lanes} lanes, {_cores(device.cores)}"
    if info.cpus and device.cpu not in info.cpus and device.arch != "x86_64":
        yield Check(
            *("Target", device.name, WARNING, f"{text}; the board has {', '.join(info.cpus)}"),
            "it runs; `edgeconv device detect` writes a target of its own",
        )
    elif device.cores > info.cores:
        yield Check(
            *("Target", device.name, WARNING, f"{text}; the server may use {info.cores}"),
            f"compile with --threads {info.cores}",
        )
    else:
        yield Check("Target", device.name, OK, text)


def _convolution(board: Session, device: Device, compile_trial: Compile) -> Iterator[Check]:
    trial = small_convolution()
    model = RemoteModel(compile_trial(trial, device), board)
    error = trial.error(model.run({"x": trial.x})["y"])
    fine = error <= TOLERANCE
    yield Check(
        *("Computing", "convolution", OK if fine else FAULT, f"relative error {error:.1e}"),
        "" if fine else "results are wrong: report it with this output",
    )


def _network(board: Session) -> Iterator[Check]:
    trips = []
    for _ in range(20):
        start = time.perf_counter()
        board.echo(1)
        trips.append(time.perf_counter() - start)
    sent, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _ECHO_SECONDS:
        board.echo(_ECHO)
        sent += _ECHO
    median = sorted(trips)[len(trips) // 2] * 1e3
    rate = sent / elapsed / 2**20
    yield Check("Network", "bandwidth", OK, f"{rate:.1f} MiB/s, {median:.2f} ms a round trip")
