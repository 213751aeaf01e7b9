"""Devices edgeconv compiles for: data about a CPU, never code that depends on one.

Each device is one TOML file beside this module; `load` also takes the path of your own, and
"host" describes the machine the compiler runs on.
"""

from edgeconv.targets.catalog import load, names
from edgeconv.targets.device import Device
from edgeconv.targets.host import host

__all__ = ["Device", "host", "load", "names"]
