"""The process of one session on a board: functions the client calls, over TVM's RPC.

Loads TVM's runtime library alone (no compiler, no numpy): ready in a tenth of a second, 30 MB.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import sys
import time
from array import array
from pathlib import Path
from typing import Any

from edgeconv import elf
from edgeconv.device import board

_SHARE_CORES = -3  # as in edgeconv.runtime.threads, which needs all of TVM


def load_runtime() -> Any:
    """TVM's runtime in this process; the module `tvm_ffi`. It starts no thread.

    Raises:
        ImportError: a package is missing, or its library can't be loaded.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would load it, for nothing
    import tvm_ffi

    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package apache-tvm is missing")
    path = Path(next(iter(spec.submodule_search_locations)), "lib", "libtvm_runtime.so")
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(f"TVM's runtime library can't be loaded: {error}") from error
    return tvm_ffi


def serve(descriptor: int, folder: Path) -> None:
    """Answer one client on a socket, until it closes the connection."""
    ffi = load_runtime()
    worker = Worker(ffi, folder)
    functions = {
        "edgeconv.device.call": worker.call,
        "edgeconv.device.fill": worker.fill,
        "edgeconv.device.dump": worker.dump,
        "edgeconv.device.zero": worker.zero,
        "edgeconv.device.sha256": worker.sha256,
        "edgeconv.device.steps": worker.steps,
        "tvm.rpc.server.workpath": worker.path,
        "tvm.rpc.server.load_module": worker.load_module,
    }
    for name, function in functions.items():
        ffi.register_global_func(name, function, override=True)
    ffi.get_global_func("rpc.ServerLoop")(descriptor)


class Worker:
    """Files, modules and memory of one session."""

    def __init__(self, ffi: Any, folder: Path) -> None:
        self.ffi, self.folder = ffi, folder
        self.verified: dict[str, str] = {}
        self.modules: dict[str, Any] = {}

    def call(self, request: Any, data: Any) -> str:
        """A JSON request {"do": …} and bytes in, JSON out: {"ok": …} or {"error", "kind"}."""
        commands = {
            "info": self.info,
            "append": self.append,
            "commit": self.commit,
            "remove": self.remove,
            "threads": self.threads,
            "echo": lambda _, data: len(data),
        }
        try:
            wanted = json.loads(str(request))
            return json.dumps({"ok": commands[wanted["do"]](wanted, bytes(data))})
        except OSError as error:
            reason = error.strerror or str(error)
            return json.dumps({"error": reason, "kind": "OSError", "errno": error.errno})
        except Exception as error:
            return json.dumps({"error": str(error), "kind": type(error).__name__})

    def info(self, _: dict[str, Any], __: bytes) -> dict[str, Any]:
        """See `board.describe`."""
        return board.describe(str(self.folder.parent))

    def path(self, name: Any) -> str:
        """Where a file of the session lies; names have no folders."""
        plain = str(name)
        if not plain or plain.startswith(".") or "/" in plain or "\0" in plain:
            raise ValueError(f"'{plain}' is not the name of an uploaded file")
        return str(self.folder / plain)

    def append(self, request: dict[str, Any], data: bytes) -> int:
        """Add bytes to a file, at its end `at`; 0 begins it anew. Its size so far."""
        path, at = Path(self.path(request["name"])), int(request["at"])
        self.verified.pop(path.name, None)
        if at == 0:
            path.unlink(missing_ok=True)  # a library loaded from it keeps its own pages
        with path.open("wb" if at == 0 else "ab") as file:
            if file.tell() != at:
                raise ValueError(f"{path.name} has {file.tell()} bytes, not {at}")
            file.write(data)
            return file.tell()

    def commit(self, request: dict[str, Any], _: bytes) -> str:
        """Compare the file's SHA-256 with the client's; from now on it may be loaded."""
        path = Path(self.path(request["name"]))
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        found = digest.hexdigest()
        if found != request["sha256"]:
            path.unlink()
            raise ValueError(f"{path.name} arrived damaged: its hash is {found}")
        self.verified[path.name] = found
        return found

    def remove(self, request: dict[str, Any], _: bytes) -> None:
        """Delete a file."""
        path = Path(self.path(request["name"]))
        self.verified.pop(path.name, None)
        path.unlink(missing_ok=True)

    def load_module(self, name: Any) -> Any:
        """Load an uploaded library, if its hash was checked and it is for this architecture."""
        path = Path(self.path(name))
        if path.name not in self.verified:
            raise ValueError(f"{path.name} is not loaded: its hash was not checked")
        with path.open("rb") as file:
            machine = elf.machine(file.read(64))
        if machine != board.architecture():
            raise ValueError(
                f"{path.name} is not loaded: it is for {machine}, this is {board.architecture()}"
            )
        module = self.ffi.load_module(str(path))
        self.modules[path.name] = module
        return module

    def threads(self, request: dict[str, Any], _: bytes) -> None:
        """Let parallel kernels run on so many threads, none tied to a core."""
        count = int(request["count"])
        cores = sorted(os.sched_getaffinity(0))
        configure = self.ffi.get_global_func("runtime.config_threadpool")
        configure(_SHARE_CORES, count, [str(core) for core in cores])
        os.sched_setaffinity(0, cores)  # configuring moves the calling thread as well

    def fill(self, tensor: Any, offset: int, data: Any) -> None:
        """Copy bytes into a tensor, at an offset in bytes."""
        source = bytes(data)
        start, size = _memory(tensor)
        if not 0 <= int(offset) <= size - len(source):
            raise ValueError(f"{len(source)} bytes at {offset} don't fit into {size}")
        ctypes.memmove(start + int(offset), source, len(source))

    def dump(self, tensor: Any, offset: int, count: int) -> bytes:
        """Bytes of a tensor."""
        start, size = _memory(tensor)
        if not 0 <= int(offset) <= int(offset) + int(count) <= size:
            raise ValueError(f"{count} bytes at {offset} are not in {size}")
        return ctypes.string_at(start + int(offset), int(count))

    def zero(self, tensor: Any) -> None:
        """Clear a tensor."""
        start, size = _memory(tensor)
        ctypes.memset(start, 0, size)

    def sha256(self, tensor: Any) -> str:
        """Hash of a tensor's bytes."""
        start, size = _memory(tensor)
        return hashlib.sha256((ctypes.c_char * size).from_address(start)).hexdigest()

    def steps(self, name: Any, count: int, repeat: int, *tensors: Any) -> bytes:
        """Run `main` of a loaded library step by step, `repeat` times.

        Returns repeat × (count + 1) float64 seconds; the last column is a call without any step.
        """
        main = self.modules[str(name)]["main"]
        times, clock = array("d"), time.perf_counter
        for _ in range(int(repeat)):
            for step in range(int(count)):
                start = clock()
                main(*tensors, step, step + 1)
                times.append(clock() - start)
            start = clock()
            main(*tensors, int(count), int(count))
            times.append(clock() - start)
        return times.tobytes()


def _memory(tensor: Any) -> tuple[int, int]:
    """Address and size in bytes of a contiguous tensor."""
    bits = {"bool": 8}.get(str(tensor.dtype)) or int(
        "".join(filter(str.isdigit, str(tensor.dtype)))
    )
    size = bits // 8
    for extent in tensor.shape:
        size *= int(extent)
    pointer = tensor.data_ptr()
    return int(pointer), size


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != parent:
        os._exit(1)
