"""What gives a machine a linker for another architecture."""

from __future__ import annotations

_PACKAGES = {
    "aarch64": "gcc-aarch64-linux-gnu",
    "armv7l": "gcc-arm-linux-gnueabihf",
    "x86_64": "gcc-x86-64-linux-gnu",
}


def advice(arch: str) -> str:
    """How to get one: "install …", in the middle of a sentence."""
    package = _PACKAGES.get(arch)
    other = "`pip install ziglang`"
    return f"install {package} (apt), or {other}" if package else other
