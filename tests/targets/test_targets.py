"""Targets: every named device is right and compiles, every mistake in a TOML file is explained."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from pathlib import Path

import pytest
import tvm
from tvm import te

from edgeconv import targets
from edgeconv.errors import TargetError
from edgeconv.targets import catalog, llvm
from edgeconv.targets.device import Device

NAMED = [name for name in targets.names() if name != "host"]
FOLDER = Path(catalog.__file__).parent
# `targets.host` is the function; the module of that name is reached by import only.
host_module = importlib.import_module("edgeconv.targets.host")


def write(tmp_path: Path, base: str = "raspberry-pi-4", /, **changes: str | None) -> Path:
    """A copy of a device's TOML with some keys set to TOML text, or removed where None."""
    kept = [
        line
        for line in (FOLDER / f"{base}.toml").read_text(encoding="utf-8").splitlines()
        if line.split(" ", 1)[0] not in changes
    ]
    added = [f"{key} = {value}" for key, value in changes.items() if value is not None]
    path = tmp_path / "board.toml"
    path.write_text("\n".join([*kept, *added]), encoding="utf-8")
    return path


def assembly(device: Device, lanes: int | None) -> str:
    """Assembly of a multiply-add over 1024 floats, in explicit vectors or left to LLVM."""
    a = te.placeholder((1024,), name="a")
    b = te.placeholder((1024,), name="b")
    c = te.compute((1024,), lambda i: a[i] * b[i] + a[i], name="c")
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func([a, b, c])}))
    if lanes:
        (loop,) = schedule.get_loops(schedule.get_sblock("c"))
        schedule.vectorize(schedule.split(loop, [None, lanes])[1])
    built = tvm.tirx.build(schedule.mod, target=device.tvm_target(1))
    return str(built.inspect_source("asm"))


def test_the_promised_names_are_there() -> None:
    assert targets.names()[0] == "host"
    assert set(NAMED) >= {
        *("x86-avx512", "x86-avx2", "x86-sse4"),
        *("raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5"),
        *("jetson-nano", "jetson-xavier-nx", "jetson-orin-nano"),
    }


@pytest.mark.parametrize("name", NAMED)
def test_named_device_loads(name: str) -> None:
    device = targets.load(name)
    assert device.name == name
    assert llvm.is_cpu(device.triple, device.cpu)
    assert hash(device) == hash(targets.load(name))
    target = device.tvm_target()
    assert int(target.attrs["num-cores"]) == device.cores
    assert str(target.attrs["mcpu"]) == device.cpu
    assert int(device.tvm_target(1).attrs["num-cores"]) == 1


@pytest.mark.parametrize("name", NAMED)
def test_named_device_compiles_to_its_own_vectors(name: str) -> None:
    device = targets.load(name)
    text = assembly(device, device.lanes)
    register = {16: r"%zmm\d", 8: r"%ymm\d", 4: r"%xmm\d"}[device.lanes]
    if device.arch == "aarch64":
        register = r"\bv\d+\.4s"
    elif device.arch == "armv7l":
        register = r"\bq\d+"
    assert re.search(register, text)
    assert bool(re.search(r"vfmadd|fmla|vfma\.f32", text)) == device.fma


def test_avx512_loops_that_llvm_vectorises_use_512_bits() -> None:
    assert re.search(r"%zmm\d", assembly(targets.load("x86-avx512"), lanes=None))


def test_thirty_two_bit_arm(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        triple='"armv7l-linux-gnueabihf"',
        cpu='"cortex-a7"',
        features='["+neon", "+vfp4"]',
        abi='"hard"',
        vector_registers="16",
    )
    device = targets.load(path)
    assert str(device.tvm_target().attrs["mfloat-abi"]) == "hard"
    assert not device.is_native
    assert re.search(r"\bq\d+\b", assembly(device, device.lanes))


def test_load_takes_the_path_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, ghz="2", cores="3")
    device = targets.load(str(path))
    assert (device.name, device.ghz, device.cores) == ("board", 2.0, 3)
    assert targets.load(path) == device


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_threads_must_be_positive(threads: object) -> None:
    with pytest.raises(TargetError, match="threads"):
        targets.load("x86-avx2").tvm_target(threads)  # type: ignore[arg-type]


WRONG: dict[str, tuple[dict[str, str | None], str]] = {
    "unknown key": ({"lane": "4"}, r"unknown key 'lane' \(did you mean 'lanes'\?\)"),
    "name is no key": ({"name": '"x"'}, "unknown key 'name'"),
    "missing key": ({"cores": None}, "key 'cores' is missing"),
    "text for a number": ({"cores": '"4"'}, "key 'cores' must be a whole number, 1 or more"),
    "bool for a number": ({"cores": "true"}, "key 'cores' must be"),
    "float for a whole number": ({"cores": "4.0"}, "key 'cores' must be"),
    "zero": ({"l1d_kib": "0"}, "key 'l1d_kib' must be a whole number, 1 or more"),
    "negative": ({"l3_kib": "-1"}, "key 'l3_kib' must be a whole number, 0 or more"),
    "number for a bool": ({"fma": "1"}, "key 'fma' must be true or false"),
    "infinite clock": ({"ghz": "inf"}, "key 'ghz' must be a number above 0"),
    "clock zero": ({"ghz": "0"}, "key 'ghz' must be"),
    "empty text": ({"cpu": '""'}, "key 'cpu' must be a string"),
    "feature without sign": ({"features": '["neon"]'}, "key 'features' must be a list"),
    "features no list": ({"features": '"+neon"'}, "key 'features' must be a list"),
    "unknown feature": ({"features": '["+avx2"]'}, "no aarch64 feature 'avx2'"),
    "unknown cpu": ({"cpu": '"cortex-a27"'}, r"no aarch64 CPU 'cortex-a27' \(did you mean"),
    "cpu of another architecture": ({"cpu": '"znver5"'}, "no aarch64 CPU 'znver5'"),
    "unknown architecture": ({"triple": '"riscv64-linux-gnu"'}, "key 'triple' can't be"),
    "lanes": ({"lanes": "3"}, "key 'lanes' can't be 3; legal values: 4, 8, 16"),
    "lanes too wide": ({"lanes": "8"}, "8 float32 lanes need 256-bit vectors"),
    "abi": ({"abi": '"soft"'}, "key 'abi' can't be 'soft'"),
    "abi on 64 bits": ({"abi": '"hard"'}, "key 'abi' must be"),
    "broken TOML": ({"cores": "= 4"}, "not a valid TOML file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_explained(case: str, tmp_path: Path) -> None:
    changes, message = WRONG[case]
    path = write(tmp_path, **changes)
    with pytest.raises(TargetError, match=message) as caught:
        targets.load(path)
    assert "board.toml" in str(caught.value)


def test_fma_needs_a_cpu_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="key 'fma': x86-64-v2 has no FMA"):
        targets.load(write(tmp_path, "x86-sse4", fma="true"))


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="can't read the target file"):
        targets.load(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="not a valid TOML file"):
        targets.load(tmp_path / "binary.toml")


def test_an_unknown_name_is_explained() -> None:
    with pytest.raises(TargetError, match=r"did you mean 'raspberry-pi-4'\?.*known targets: host"):
        targets.load("raspberypi-4")


def test_host() -> None:
    device = targets.load("host")
    assert device == targets.host()
    assert device.is_native
    assert device.lanes in (4, 8, 16)
    assert device.cores == len(os.sched_getaffinity(0))
    assert 8 <= device.l1d_kib <= 1024
    assert "prefer-256-bit" not in llvm.enabled_features(device.triple, device.cpu, device.features)
    # every feature LLVM will use here is one this machine has
    wanted = llvm.enabled_features(device.triple, device.cpu, device.features)
    assert wanted.isdisjoint(llvm.host_lacks())


@pytest.mark.parametrize(
    ("cpu", "flags", "lanes", "ports"),
    [
        ("znver5", "avx512f avx512vl avx512dq avx512bw avx2 fma sse4.1", 16, (2, 2)),
        ("znver4", "avx512f avx512vl avx512dq avx512bw avx2 fma sse4.1", 16, (1, 1)),
        ("icelake-client", "avx512f avx512vl avx512dq avx512bw avx2 fma sse4.1", 16, (1, 2)),
        ("znver4", "avx2 fma sse4.1", 8, (2, 2)),
        ("knl", "avx512f avx2 fma sse4.1", 8, (2, 2)),
        ("ivybridge", "avx sse4.1", 4, (1, 2)),
    ],
)
def test_x86_detection(cpu: str, flags: str, lanes: int, ports: tuple[int, int]) -> None:
    vectors = host_module._vectors("x86_64", cpu, dict.fromkeys(flags.split(), True))
    assert (vectors.lanes, (vectors.fma_ports, vectors.load_ports)) == (lanes, ports)


@pytest.mark.parametrize(
    ("name", "ports", "cycles"),
    [
        ("x86-avx512", 2, 3.5),
        ("x86-avx512", 1, 5.0),  # each vector takes both halves' ports, an element one of them
        ("raspberry-pi-4", 1, 7.0),
        ("raspberry-pi-5", 2, 3.5),
    ],
)
def test_elements_are_loaded_faster_than_vectors_of_two_halves(
    name: str, ports: int, cycles: float
) -> None:
    device = dataclasses.replace(targets.load(name), load_ports=ports)
    assert device.load_cycles(3, 4) == cycles


def test_detection_without_vectors_is_an_error() -> None:
    with pytest.raises(TargetError, match="none of AVX-512"):
        host_module._vectors("x86_64", "x86-64", {"sse2": True})


def test_arm_detection() -> None:
    for cpu, wanted in (("cortex-a53", (1, 1)), ("cortex-a75", (1, 2)), ("neoverse-n1", (2, 2))):
        vectors = host_module._vectors("aarch64", cpu, {"neon": True})
        assert (vectors.fma_ports, vectors.load_ports) == wanted


def test_host_features_correct_what_llvm_assumes() -> None:
    flags = {"avx512f": False, "avx2": True, "sse2": True}
    features = host_module._features("x86_64-linux-gnu", "skylake-avx512", flags)
    assert features == ("-avx512f", "-prefer-256-bit")
    assert host_module._features("x86_64-linux-gnu", "x86-64", {"avx2": True}) == ("+avx2",)


def test_caches_and_clock_come_from_sys(tmp_path: Path) -> None:
    entries = [("Data", "1", "48K"), ("Instruction", "1", "32K"), ("Unified", "2", "2M")]
    for number, (kind, level, size) in enumerate([*entries, ("Unified", "3", "?")]):
        folder = tmp_path / f"cache/index{number}"
        folder.mkdir(parents=True)
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpufreq/cpuinfo_max_freq").write_text("2400000\n")
    device = targets.host(tmp_path)
    assert (device.l1d_kib, device.l2_kib, device.l3_kib) == (48, 2048, 0)
    assert device.ghz == 2.4


def test_host_without_sys(tmp_path: Path) -> None:
    device = targets.host(tmp_path)
    assert (device.l1d_kib, device.l2_kib, device.l3_kib, device.ghz) == (32, 256, 0, None)


def test_native_is_decided_by_features_not_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "host_triple", lambda: "x86_64-linux-gnu")
    monkeypatch.setattr(llvm, "host_lacks", lambda: frozenset({"avx512f"}))
    assert not targets.load("x86-avx512").is_native
    assert targets.load("x86-avx2").is_native
    assert not targets.load("raspberry-pi-4").is_native


def test_vectors_in_halves() -> None:
    """Zen 4 starts one 512-bit vector a cycle, or two of half the length."""
    whole = dataclasses.replace(targets.load("x86-avx512"), fma_ports=1, load_ports=1)
    assert whole.in_halves
    half = whole.with_vectors_of(8)
    assert (half.fma_ports, half.load_ports, half.in_halves) == (2, 2, False)
    assert whole.with_vectors_of(16) is whole
    assert not targets.load("x86-avx512").in_halves
    # a small core, no halves
    one_port = dataclasses.replace(targets.load("x86-sse4"), load_ports=1)
    assert one_port.with_vectors_of(2) is one_port
