"""A session on a board: connect, upload, load, run, measure, each within its time.

The interface is described in `edgeconv.device`. Errors of every kind become DeviceError, and close
the session: after a fault the two sides may not be in step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tvm
from tvm import rpc

from edgeconv.device import relay, wire
from edgeconv.device.address import Address, resolve
from edgeconv.device.faults import Fault, explain
from edgeconv.device.info import BoardInfo
from edgeconv.device.lending import Place, borrow
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.targets import Device

TIMEOUT = 30.0
"""Default seconds a board may take for an answer."""

_CHUNK = 1 << 20  # bytes of an upload a call
_PAUSE = 0.2  # seconds between attempts while a board is busy
_START = 10.0  # seconds the relay has to start, beyond the timeout
_RELAY = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgeconv.device.relay import main; main()"
)


def session(device: str | Address, timeout: float = TIMEOUT, *, wait: bool = True) -> Session:
    """Connect to a board; see `edgeconv.device` for what `device` may be.

    While a server serves another client, this waits for up to `timeout` seconds, or fails at once.

    Raises:
        DeviceError: malformed or unknown, nobody there, no board free, another protocol.
    """
    if not isinstance(timeout, (int, float)) or not 0 < timeout <= 86400:
        raise DeviceError(f"timeout is a number of seconds above 0, not {timeout!r}")
    address = device if isinstance(device, Address) else resolve(device)
    return Session(address, float(timeout), wait=wait)


class Session:
    """See `edgeconv.device`. A context manager; `close` may be called at any time."""

    def __init__(self, address: Address, timeout: float, *, wait: bool = True) -> None:
        self.address, self.timeout = address, timeout
        self.closed = False
        self._doing = "connecting"
        self._relay: subprocess.Popen[str] | None = None
        self._fault: dict[str, Any] | None = None
        self._threads = 0
        with self._guarded("connecting"):
            self.rpc = self._wait_for_board(time.monotonic() + (timeout if wait else 0.0))
            try:
                self._call = self.rpc.get_function("edgeconv.device.call")
            except Exception as error:
                if not _is_missing(error) or self._relay_fault() is not None:
                    raise
                raise DeviceError(
                    f"{address} runs a plain TVM RPC server: start `edgeconv device serve` there "
                    "instead"
                ) from error
            self.cpu = self.rpc.cpu()
        self.info = BoardInfo.from_raw(str(address), self._ask("asking what it is", do="info"))

    # connecting

    def _wait_for_board(self, ends: float) -> Any:
        """A connection; while the board serves another client, again and again until `ends`."""
        while True:
            try:
                return self._connect(borrow(self.address, self.timeout))
            except DeviceError:
                busy = self._fault is not None and self._fault.get("fault") == "busy"
                if not busy or time.monotonic() + _PAUSE > ends:
                    raise
            self._end_relay()
            self._fault = None
            time.sleep(_PAUSE)

    def _connect(self, place: Place) -> Any:
        secret = secrets.token_hex(16)
        task = {**place.task, "secret": secret, "timeout": self.timeout}
        try:
            self._relay = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _RELAY,
                    json.dumps(_own_path()),
                    json.dumps(task),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process; the relay follows it
            )
            assert self._relay.stdin is not None
            os.set_blocking(self._relay.stdin.fileno(), False)  # as a wake-up of signals has to be
        except OSError as error:
            raise DeviceError(f"can't start Python ({sys.executable}): {error}") from error
        hello = self._hear(2 * self.timeout + _START)
        if hello is None or "port" not in hello:
            self._fault = hello
            raise explain(self._as_fault(hello or {"fault": "relay", "text": "no answer"}))
        return rpc.connect("127.0.0.1", hello["port"], secret)

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        """The relay's next message; None if it says nothing (more)."""
        stream = None if self._relay is None else self._relay.stdout
        if stream is None:
            return None
        heard: list[str] = []
        reader = threading.Thread(target=lambda: heard.append(stream.readline()), daemon=True)
        reader.start()
        reader.join(seconds)
        try:
            message = json.loads(heard[0])
        except (IndexError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    # the interface

    def upload(self, source: str | os.PathLike[str] | bytes, name: str | None = None) -> str:
        """Copy a file to the board, in pieces; its hash is checked there. Its name there.

        Raises:
            DeviceError: the board's disk is full, or a fault of the connection.
        """
        if isinstance(source, bytes):
            data, name = source, name or "upload.so"
        else:
            try:
                data, name = Path(source).read_bytes(), name or Path(source).name
            except OSError as error:
                raise DeviceError(f"can't read {source}: {error.strerror}") from error
        doing = f"uploading {name}"
        for at in range(0, max(len(data), 1), _CHUNK):
            piece = data[at : at + _CHUNK]
            self._ask(doing, piece, size=len(data), do="append", name=name, at=at)
        digest = hashlib.sha256(data).hexdigest()
        self._ask(doing, size=len(data), do="commit", name=name, sha256=digest)
        return name

    def remove(self, name: str) -> None:
        """Delete an uploaded file; a module loaded from it stays."""
        self._ask(f"removing {name}", do="remove", name=name)

    def load(self, name: str, compiled_for: Device) -> Any:
        """Load an uploaded shared library: a module whose functions run on the board.

        Raises:
            DeviceError: it was compiled for a CPU that the board is not; nothing is loaded then.
        """
        reason = self.info.mismatch(compiled_for)
        if reason is not None:
            raise DeviceError(f"{self.address} can't run {name}: {reason}")
        with self._guarded(f"loading {name}"):
            return self.rpc.load_module(name)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """A tensor in the board's memory, 64-byte aligned, not initialised."""
        with self._guarded("allocating memory"):
            return tvm.runtime.empty(tuple(shape), dtype, device=self.cpu)

    def tensor(self, array: np.ndarray) -> Any:
        """A copy of the array in the board's memory."""
        tensor = self.empty(array.shape, str(array.dtype))
        self.write(tensor, array)
        return tensor

    def write(self, tensor: Any, array: np.ndarray) -> None:
        """Copy an array of the same shape and type into a tensor on the board."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._guarded("copying to the board"):
            fill = self.rpc.get_function("edgeconv.device.fill")
            for at in range(0, data.size, _CHUNK):
                fill(tensor, at, data[at : at + _CHUNK].tobytes())

    def check(self, tensor: Any, array: np.ndarray) -> None:
        """Compare a tensor on the board with what it should hold, by hash.

        Raises:
            DeviceError: they differ.
        """
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        wanted = hashlib.sha256(data.data).hexdigest()
        with self._guarded("checking what was copied"):
            found = str(self.rpc.get_function("edgeconv.device.sha256")(tensor))
        if found != wanted:
            raise DeviceError(f"{self.address}: data arrived damaged; try again")

    def zero(self, tensor: Any) -> None:
        """Clear a tensor on the board."""
        with self._guarded("clearing memory"):
            self.rpc.get_function("edgeconv.device.zero")(tensor)

    def read(self, tensor: Any) -> np.ndarray:
        """A copy of a tensor on the board."""
        array = np.empty([int(n) for n in tensor.shape], str(tensor.dtype))
        data = array.reshape(-1).view(np.uint8)
        with self._guarded("copying from the board"):
            dump = self.rpc.get_function("edgeconv.device.dump")
            for at in range(0, data.size, _CHUNK):
                part = data[at : at + _CHUNK]
                part[:] = np.frombuffer(bytes(dump(tensor, at, part.size)), np.uint8)
        return array

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function of a loaded module."""
        with self._guarded("running the network"):
            return function(*arguments)

    def threads(self, count: int) -> None:
        """Let parallel kernels run on so many threads."""
        if count != self._threads and count > 1:
            self._ask("setting the number of threads", do="threads", count=count)
            self._threads = count

    def time(
        self,
        module: Any,
        name: str,
        arguments: Sequence[Any],
        *,
        number: int = 1,
        repeat: int = 1,
        seconds: float = 0.0,
    ) -> tuple[float, ...]:
        """Run a function `repeat` times `number` on the board, in one call; its own clock's times.

        Args:
            module: what `load` returned.
            name: of the function.
            arguments: tensors of this session, and numbers.
            number: calls that one sample is the mean of.
            repeat: samples.
            seconds: how long all of it is expected to take; the timeout begins after that.

        Returns:
            Seconds a call, one for each sample. (TVM calls the function once more before.)
        """
        with self._guarded("measuring", seconds):
            evaluator = module.time_evaluator(name, self.cpu, number=number, repeat=repeat)
            return tuple(float(s) for s in evaluator(*arguments).results)

    def steps(
        self, name: str, count: int, repeat: int, tensors: Sequence[Any], *, seconds: float = 0.0
    ) -> np.ndarray:
        """Times of each step of a network on the board, seconds [repeat, count + 1].

        `name` is a loaded library's; the last column is a call that runs no step.
        """
        with self._guarded("profiling", seconds):
            function = self.rpc.get_function("edgeconv.device.steps")
            data = bytes(function(name, count, repeat, *tensors))
        return np.frombuffer(data, np.float64).reshape(repeat, count + 1)

    def echo(self, size: int) -> None:
        """Send so many bytes, which the board forgets: for measuring bandwidth."""
        self._ask("measuring the bandwidth", b"\0" * size, do="echo")

    def close(self) -> None:
        """End the session; nothing of it stays on either side. A second time does nothing."""
        if self.closed:
            return
        self.closed = True
        self._end_relay()

    def _end_relay(self) -> None:
        process, self._relay = self._relay, None
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    # faults

    def _ask(self, doing: str, data: bytes = b"", size: int = 0, **request: Any) -> Any:
        """A request to the board's own functions; `size` is what an upload needs in all."""
        with self._guarded(doing):
            answer = json.loads(str(self._call(json.dumps(request), data)))
            if "ok" in answer:
                return answer["ok"]
            fault = {"fault": "board", "text": answer["error"], "errno": answer.get("errno")}
            raise explain(self._as_fault(fault, size))

    @contextlib.contextmanager
    def _guarded(self, doing: str, seconds: float = 0.0) -> Iterator[None]:
        """Whatever fails inside closes the session, and becomes DeviceError."""
        if self.closed:
            raise DeviceError(f"the session with {self.address} is closed; open a new one")
        self._doing = doing
        try:
            with self._interruptible(), self._explained(seconds):
                yield
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C is told to the relay as well, which ends the session.

        TVM looks for signals when one interrupts its waiting; one that comes just before would
        be seen after the answer only.
        """
        stdin = None if self._relay is None else self._relay.stdin
        raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if stdin is None or not raises or threading.current_thread() != threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(stdin.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    @contextlib.contextmanager
    def _explained(self, seconds: float) -> Iterator[None]:
        """DeviceError for whatever fails inside; `seconds` more than usual may pass."""
        if seconds:
            self._set_timeout(self.timeout + seconds)
        try:
            yield
            if seconds:
                self._set_timeout(self.timeout)
        except EdgeconvError:
            raise
        except Exception as error:
            fault: dict[str, Any] = {"fault": "rpc", "text": str(error)}
            if wire.FAREWELL not in str(error):
                fault = self._relay_fault() or fault
            raise explain(self._as_fault(fault)) from error

    def _set_timeout(self, seconds: float) -> None:
        if self._relay is not None and self._relay.stdin is not None and math.isfinite(seconds):
            with contextlib.suppress(OSError):
                self._relay.stdin.write(f"timeout {seconds:.3f}\n")
                self._relay.stdin.flush()

    def _relay_fault(self) -> dict[str, Any] | None:
        """Why the relay closed the connection, if it did."""
        if self._fault is None and self._relay is not None and not self.closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._relay.wait(0.5)
                self._fault = self._hear(1.0)
        return self._fault

    def _as_fault(self, found: dict[str, Any], size: int = 0) -> Fault:
        return Fault(
            self.address,
            str(found.get("fault")),
            str(found.get("text", "")),
            self._doing,
            self.timeout,
            found.get("errno"),
            size,
        )


def _own_path() -> list[str]:
    """Where the relay finds edgeconv: the absolute folders of this process."""
    root = str(Path(relay.__file__).resolve().parents[2])
    return [root, *(p for p in sys.path if os.path.isabs(p))]


def _is_missing(error: Exception) -> bool:
    """Whether the server lacks edgeconv's functions, as TVM's own does."""
    text = str(error)
    absent = "edgeconv.device.call" in text or "not" in text.lower()
    return absent and wire.FAREWELL not in text
