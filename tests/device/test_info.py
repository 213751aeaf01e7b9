"""What boards say of themselves, which code fits them, and the targets made from it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from edgeconv import targets
from edgeconv.checks import FAULT, OK, WARNING, Check
from edgeconv.device import board, check
from edgeconv.device.detect import best_target, detect, to_toml
from edgeconv.device.info import BoardInfo, here
from edgeconv.errors import DeviceError

NEON, A76 = 1 << 1, 1 << 1 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 20


def raw(**changes: Any) -> dict[str, Any]:
    """A Raspberry Pi 4, changed."""
    found = copy.deepcopy(board.describe())
    found |= {
        "machine": "aarch64",
        "model": "Raspberry Pi 4 Model B Rev 1.4",
        "hwcap": [NEON, 0],
        "flags": ["asimd", "fp"],
        "parts": [[0x41, 0xD08]],
        "cores": [0, 1, 2, 3],
        "caches": {},
        "max_khz": 1_800_000,
        "emulated": False,
    }
    return found | changes


def info(**changes: Any) -> BoardInfo:
    """The same, interpreted."""
    return BoardInfo.from_raw("board", raw(**changes))


def test_this_machine() -> None:
    """What the kernel says agrees with what LLVM says: the host's own code is not refused."""
    assert here().mismatch(targets.host()) is None
    assert not here().emulated


def test_features() -> None:
    assert info().features == {"neon"}
    assert info(hwcap=[A76, 1 << 13]).features == {
        *("neon", "lse", "fullfp16", "rdm", "dotprod", "i8mm")
    }
    assert info(machine="armv7l", hwcap=[1 << 12 | 1 << 16, 0]).features == {"neon", "vfp4"}


@pytest.mark.parametrize(
    ("changes", "target", "words"),
    [
        ({}, "raspberry-pi-4", None),
        ({}, "raspberry-pi-3", None),
        ({}, "raspberry-pi-5", "may use dotprod, fullfp16, lse, rdm, which this CPU (cortex-a72)"),
        ({"hwcap": [A76, 0], "parts": [[0x41, 0xD0B]]}, "raspberry-pi-5", None),
        ({}, "x86-avx2", "it is for x86_64, and the board's processes are aarch64"),
        ({}, "raspberry-pi-2", "it is for armv7l"),
        ({"machine": "armv7l", "hwcap": [1 << 12 | 1 << 16, 0]}, "raspberry-pi-2", None),
        ({"machine": "armv7l", "hwcap": [1 << 12, 0]}, "raspberry-pi-2", "may use vfp4"),
        ({"machine": "x86_64", "flags": ["sse4_1"]}, "x86-avx2", "avx2, bmi, bmi2"),
    ],
)
def test_mismatch(changes: dict[str, Any], target: str, words: str | None) -> None:
    reason = info(**changes).mismatch(targets.load(target))
    assert reason is None if words is None else words in str(reason)


def test_profiles() -> None:
    assert info().profiles() == ["raspberry-pi-4"]
    assert best_target(info()).name == "raspberry-pi-4"
    assert info(parts=[[0x41, 0xD42]], hwcap=[A76, 0]).profiles() == ["jetson-orin-nano"]
    assert info(parts=[[0x99, 1]]).profiles() == []
    assert best_target(info(parts=[[0x99, 1]])).cpu == "generic"


def test_detect(tmp_path: Path) -> None:
    """A board nobody named: what it publishes, and the named target's caches where it doesn't."""

    def written(**changes: Any) -> targets.Device:
        path = tmp_path / "board.toml"
        path.write_text(to_toml(detect(info(**changes)), "two\nlines"), encoding="utf-8")
        return targets.load(path)

    pi = written()
    assert (pi.cpu, pi.cores, pi.ghz, pi.lanes) == ("cortex-a72", 4, 1.8, 4)
    named = targets.load("raspberry-pi-4")
    assert (pi.l1d_kib, pi.l2_kib, pi.fma_ports) == (named.l1d_kib, named.l2_kib, named.fma_ports)
    big_little = [[0x41, 0xD08], [0x41, 0xD03]]
    found = written(parts=big_little, caches={"1": 48, "2": 512}, max_khz=None)
    assert (found.cpu, found.l1d_kib, found.l2_kib, found.l3_kib) == ("cortex-a53", 48, 512, 0)
    assert found.ghz is None
    assert "+dotprod" in written(parts=[], hwcap=[A76, 0]).features
    assert "-dotprod" in written(parts=[[0x41, 0xD0B]], hwcap=[NEON, 0]).features
    small = written(machine="armv7l", hwcap=[1 << 12 | 1 << 16, 0], parts=[[0x41, 0xC07]])
    assert (small.cpu, small.abi, small.vector_registers) == ("cortex-a7", "hard", 16)
    if targets.host().arch == "x86_64":
        x86 = raw(machine="x86_64", flags=board.describe()["flags"])
        assert detect(BoardInfo.from_raw("board", x86)).lanes == targets.host().lanes
    with pytest.raises(DeviceError, match="is riscv64"):
        detect(info(machine="riscv64"))
    with pytest.raises(DeviceError, match="no NEON"):
        detect(info(machine="armv7l", hwcap=[0, 0]))
    with pytest.raises(DeviceError, match=r"no SSE4\.1"):
        detect(info(machine="x86_64", flags=["sse2"]))


@pytest.mark.parametrize("key", ["machine", "hwcap", "parts", "cores", "versions"])
def test_nonsense(key: str) -> None:
    found = raw()
    found[key] = None
    with pytest.raises(DeviceError):
        BoardInfo.from_raw("board", found)


def test_cpu_parts() -> None:
    cpuinfo = "".join(
        f"processor : {i}\nCPU implementer : 0x41\nCPU part : {part}\n\n"
        for i, part in enumerate(("0xd08", "0xd03", "0xd03", "bad"))
    )
    assert board.cpu_parts(cpuinfo) == [[0x41, 0xD08], [0x41, 0xD03]]


def test_caches(tmp_path: Path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "48K"), ("2", "Unified", "1M"), ("x", "", "")]
    ):
        folder = tmp_path / "cache" / f"index{i}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert board.caches(tmp_path) == {"1": 32, "2": 1024}


class Lent:
    """As much of a session as the checks of clock and versions look at."""

    def __init__(self, **changes: Any) -> None:
        self.info = info(**changes)


def findings(part: Any, **changes: Any) -> dict[str, Check]:
    return {c.name: c for c in part(Lent(**changes))}


def test_clock() -> None:
    silent = {"governors": [], "khz": [], "celsius": None, "throttled": None}
    assert {n: c.status for n, c in findings(check._clock, clock=silent).items()} == {
        "governor": OK
    }
    pi = {"governors": ["ondemand"], "khz": [600_000], "celsius": 85.0, "throttled": 0x50005}
    found = findings(check._clock, clock=pi)
    assert {c.status for c in found.values()} == {WARNING}
    assert "0.6 GHz" in found["governor"].detail
    assert found["throttling"].detail == "now: under-voltage, throttled"
    pi |= {"governors": ["performance"], "celsius": 50.0, "throttled": 0x50000}
    found = findings(check._clock, clock=pi)
    assert (found["governor"].status, found["temperature"].status) == (OK, OK)
    assert found["throttling"].detail.startswith("since it was switched on: under-voltage")
    assert findings(check._clock, clock={**pi, "throttled": 0})["throttling"].status == OK


def test_versions() -> None:
    mine = raw()["versions"]
    assert {c.status for c in findings(check._versions).values()} == {OK}
    older = {**mine, "apache-tvm": "0.26.0", "apache-tvm-ffi": None, "edgeconv": "0.1.999"}
    found = findings(check._versions, versions=older)
    assert found["apache-tvm"].status == found["apache-tvm-ffi"].status == FAULT
    assert "0.26.0 on the board" in found["apache-tvm"].detail
    assert found["edgeconv"].status == WARNING
