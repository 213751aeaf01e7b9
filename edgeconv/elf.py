"""What a shared library says it is for. The standard library alone: boards read it too."""

from __future__ import annotations

import struct

_MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l"}


def machine(data: bytes) -> str:
    """The architecture of an ELF file, from its first 20 bytes: "x86_64", "aarch64", "armv7l".

    Raises:
        ValueError: it is no ELF file.
    """
    if len(data) < 20 or data[:4] != b"\x7fELF":
        raise ValueError("not an ELF file")
    number = struct.unpack(("<" if data[5] == 1 else ">") + "H", data[18:20])[0]
    return _MACHINES.get(number, f"ELF machine {number}")
