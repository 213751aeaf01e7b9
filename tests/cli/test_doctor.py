"""`edgeconv doctor`: versions, the machine, and a child process that may die."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edgeconv.checks import FAULT, OK, WARNING, Check, carried_out
from edgeconv.cli import doctor, doctor_native
from edgeconv.cli.doctor_machine import (
    check_cores,
    check_cpu,
    check_temporary_folder,
    cpu_features,
    cpu_model,
    cpu_quota,
)
from edgeconv.cli.doctor_versions import (
    REQUIRED,
    check_extras,
    check_versions,
    fits,
    order,
    requirement,
    tvm_is_usable,
)

ROOT = Path(__file__).resolve().parents[2]


def find(checks: list[Check], name: str) -> Check:
    return next(c for c in checks if c.name == name)


def test_this_machine(cli) -> None:
    done = cli("doctor", "--json")
    found = done.json
    faults = [c for c in found["checks"] if c["status"] == FAULT]
    assert (done.status, found["ok"], faults) == (0, True, [])
    names = [c["name"] for c in found["checks"]]
    for name in ("TVM", "host target", "multiply-add peak", "linker aarch64", "linker armv7l"):
        assert name in names
    assert names.count("convolution") == 2
    assert all(c["advice"] for c in found["checks"] if c["status"] != OK)


def test_versions_sort() -> None:
    versions = ["0.1.9", "0.1.14rc1", "0.1.14", "0.1.14.post0", "0.1.14.post1", "0.1.15", "0.2"]
    assert sorted(versions, key=order) == versions
    assert order("1.0") == order("1")


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("0.1.14.post0", True),
        ("0.1.14.post1", True),
        ("0.1.14", False),
        ("0.1.13", False),
        ("0.1.15", False),
        ("0.1.15.dev3", False),
        ("0.1.15rc1", False),
        ("0.1.15.post1", False),
        ("0.2.0", False),
    ],
)
def test_the_broken_range_of_tvm_ffi(version: str, good: bool) -> None:
    assert fits(version, "0.1.14.post0", "0.1.15") is good
    versions = {package: first or "1" for package, first, _, _ in REQUIRED}
    checks = list(check_versions((versions | {"apache-tvm-ffi": version}).get))
    assert find(checks, "apache-tvm-ffi").status == (OK if good else FAULT)
    assert tvm_is_usable(checks) is good
    if not good:
        advice = "pip install 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"
        assert find(checks, "apache-tvm-ffi").advice == advice


def test_requirements_are_those_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") :]
    wanted = re.findall(r'^    "([^";]+)', block[: block.index("\n]")], re.MULTILINE)
    mine = {requirement(package, first, end) for package, first, end, _ in REQUIRED}
    assert {w.strip() for w in wanted if not w.startswith("tomli")} == mine - {"protobuf"}


def test_missing_packages() -> None:
    checks = list(check_versions(lambda package: None))
    assert find(checks, "numpy") == Check(
        "Versions", "numpy", FAULT, "not installed", "pip install 'numpy>=1.26'"
    )
    assert find(checks, "tornado").status == WARNING
    extras = list(check_extras(lambda package: None))
    assert {c.status for c in extras} == {OK}
    assert find(extras, "matplotlib").advice == "pip install 'edgeconv[bench]'"


def test_a_wrong_version_keeps_tvm_unloaded(cli, monkeypatch) -> None:
    def wrong() -> list[Check]:
        return [Check("Versions", "apache-tvm-ffi", FAULT, "0.1.15: crashes", "pip install …")]

    def load() -> list[Check]:
        raise AssertionError("TVM was loaded")

    monkeypatch.setattr(doctor, "check_versions", wrong)
    monkeypatch.setattr(doctor, "check_native", load)
    done = cli("doctor")
    assert done.status == 1
    assert "repair the faults under Versions first" in done.out
    assert "edgeconv does not work here: 2 faults" in done.out


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashed with SIGILL"),
        ("raise ImportError('libtvm.so is gone')", "exit status 1: ImportError: libtvm.so is gone"),
        ("import time; time.sleep(60)", "hung: stopped after 1 s"),
    ],
)
def test_a_tvm_that_dies(code: str, words: str) -> None:
    first = '{"section": "Compiler", "name": "first", "status": "ok", "detail": "done"}'
    start = f"import sys; print('{first}'); print('{{torn'); sys.stdout.flush(); "
    checks = list(doctor_native.check_native(start + code, timeout=1 if "sleep" in code else 60))
    assert [c.name for c in checks] == ["first", "TVM"]
    assert (checks[1].status, checks[1].detail) == (FAULT, words)
    assert checks[1].advice


def test_a_tvm_that_does_not_import() -> None:
    block = f"import sys; sys.modules['tvm'] = None; sys.path.insert(0, {str(ROOT)!r}); "
    code = block + (
        "from edgeconv.checks import carried_out; "
        "from edgeconv.cli import doctor_native; doctor_native.child()"
    )
    (check,) = doctor_native.check_native(code)
    assert check.status == FAULT
    assert "tvm" in check.detail


def test_a_check_that_raises_is_a_fault() -> None:
    def fail() -> list[Check]:
        raise ValueError("odd\nmachine")

    def pass_() -> list[Check]:
        return [Check("S", "b", OK, "")]

    checks = list(carried_out("S", [("a", fail), ("b", pass_)]))
    assert [(c.name, c.status) for c in checks] == [("a", FAULT), ("b", OK)]
    assert checks[0].detail == "ValueError: odd machine"


def test_cpuinfo() -> None:
    x86 = "processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: fpu avx2 fma avx512f\n"
    arm = "processor\t: 0\nFeatures\t: fp asimd\n\nModel\t\t: Raspberry Pi 4\n"
    assert (cpu_model(x86), cpu_features(x86)) == ("Fast CPU", ["AVX2", "FMA", "AVX-512F"])
    assert (cpu_model(arm), cpu_features(arm)) == ("Raspberry Pi 4", ["NEON"])
    assert cpu_model("") == ""


def test_cpu_without_vectors(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text("flags : sse4_1\n")
    assert find(list(check_cpu(tmp_path / "cpuinfo")), "instruction sets").status == WARNING
    assert find(list(check_cpu(tmp_path / "none")), "instruction sets").status == OK


def test_quota_v2(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/app/one\n")
    assert cpu_quota(tmp_path, own) is None
    (tmp_path / "app/one").mkdir(parents=True)
    (tmp_path / "app/one/cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path, own) is None
    (tmp_path / "app/cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path, own) == 1.5


def test_quota_v1(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:memory:/x\n4:cpu,cpuacct:/x\n")
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct/cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu,cpuacct/cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path, own) == 0.5
    (tmp_path / "cpu,cpuacct/cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path, own) is None


def test_a_quota_below_the_cores() -> None:
    (check,) = check_cores(0.5)
    assert check.status == WARNING
    assert check.advice.startswith("pass --threads 1:")
    assert next(iter(check_cores(None))).status == OK
    assert next(iter(check_cores(1000.0))).status == OK


def test_a_temporary_folder_that_is_gone(monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/none/at/all")
    (check,) = check_temporary_folder()
    assert (check.status, check.advice) == (FAULT, "set TMPDIR to a folder you can write to")


def test_the_child_gets_this_path() -> None:
    code = "import json, sys; assert json.loads(sys.argv[1])[-1] == '/marker'"
    sys.path.append("/marker")
    try:
        assert list(doctor_native.check_native(code)) == []
    finally:
        sys.path.remove("/marker")
