"""A compiled network on a board, with the interface of a local one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.artifact import Artifact, TensorSpec
from edgeconv.device.sessions import Session
from edgeconv.errors import DeviceError
from edgeconv.linking import find_linker, link, no_linker, object_code
from edgeconv.runtime.buffers import aligned
from edgeconv.runtime.latency import Latency
from edgeconv.runtime.model import ALL_STEPS, Model
from edgeconv.targets import Device, probe

if TYPE_CHECKING:
    from edgeconv.device.info import BoardInfo
    from edgeconv.runtime.profile import Profile

_BATCH = 5.0  # seconds of the board's work one request may ask for


class RemoteModel(Model):
    """Runs a compiled network on a board; code, weights and workspace stay there between runs.

    A context manager: `close` ends the session. `run` copies inputs there and outputs back;
    `benchmark` and `profile` measure by the board's own clock, without copies.
    """

    def __init__(self, artifact: Artifact, session: Session) -> None:
        """Load the network on the board.

        Raises:
            DeviceError: wrong CPU, TVM or edgeconv, or a fault of the board; no native code is
                loaded before all that agrees.
            BuildError: the artifact was never linked, and can't be here.
        """
        self.artifact, self.session = artifact, session
        manifest = artifact.manifest
        reason = session.info.mismatch(manifest.device)
        reason = reason or session.info.version_mismatch(manifest.tvm_version)
        if reason is not None:
            raise DeviceError(f"{session.address} can't run {manifest.name}: {reason}")
        self._lock = threading.Lock()
        code = artifact.linked()
        self._library = session.upload(code, f"{hashlib.sha256(code).hexdigest()[:16]}.so")
        self._module = session.load(self._library, manifest.device)
        self._remote_main = self._module["main"]
        session.threads(manifest.threads)
        constants = artifact.constants if artifact.constants.size else np.zeros(1, np.uint8)
        weights = session.tensor(constants)
        session.check(weights, constants)
        workspace = session.empty((max(manifest.workspace_bytes, 1),), "uint8")
        session.zero(workspace)
        self._fixed = (weights, workspace)
        self._ins = [_tensor(session, spec) for spec in self.inputs]
        self._outs = [_tensor(session, spec) for spec in self.outputs]

    @property
    def info(self) -> BoardInfo:
        """The board."""
        return self.session.info

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """One inference on the board; see `Model.run`.

        Raises:
            InputError: a name, shape or type does not fit.
            DeviceError: a fault of the board or the connection.
        """
        arrays = self._arrays(inputs)
        with self._lock:
            self._write(arrays)
            self.session.call(self._remote_main, *self._tensors, 0, ALL_STEPS)
            return {
                spec.name: self.session.read(tensor).reshape(spec.shape)
                if 0 not in spec.shape
                else aligned(spec.shape, spec.dtype)
                for spec, tensor in zip(self.outputs, self._outs, strict=True)
            }

    def bind(self, inputs: Mapping[str, Any]) -> RemoteCall:  # type: ignore[override]
        """Fix the arrays once; each call still copies them to the board and the results back."""
        return RemoteCall(self, self._arrays(inputs))

    def benchmark(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        warmup: int = 5,
        repeat: int = 50,
        min_repeat_ms: float = 2.0,
    ) -> Latency:
        """Latency on the board by its own clock; see `Model.benchmark`.

        Raises:
            DeviceError: the board is emulated, or failed.
            ValueError: a count is not positive, or negative.
        """
        if repeat < 1 or warmup < 0 or min_repeat_ms < 0:
            raise ValueError("repeat must be at least 1, warmup and min_repeat_ms at least 0")
        self._require_a_real_board()
        with self._lock:
            self._write(self._arrays(self.random_inputs() if inputs is None else inputs))
            return self._measure(warmup, repeat, min_repeat_ms)

    def _measure(self, warmup: int, repeat: int, min_repeat_ms: float) -> Latency:
        once = max(min(self._time(1, 1, 0.0)), 1e-7)
        if warmup > 1:
            for count in _batches(warmup - 1, once):
                self._time(count, 1, once)
        calls = max(1, round(min_repeat_ms * 1e-3 / once))
        samples: list[float] = []
        for count in _batches(repeat, once * calls):
            samples += self._time(calls, count, once)
        return Latency(tuple(s * 1e3 for s in samples), calls)

    def _time(self, number: int, repeat: int, once: float) -> tuple[float, ...]:
        arguments = [*self._tensors, 0, ALL_STEPS]
        seconds = 2 * once * (number * repeat + 1)
        return self.session.time(
            self._module, "main", arguments, number=number, repeat=repeat, seconds=seconds
        )

    def first_run_ms(self, inputs: Mapping[str, Any]) -> float:
        """The next run, step by step, by the board's clock; `benchmark` runs once before it does.

        Raises:
            DeviceError: the board is emulated, or failed.
        """
        self._require_a_real_board()
        with self._lock:
            self._write(self._arrays(inputs))
            (times,) = self._steps(len(self.manifest.layers), 1, 0.0)
        return float(np.maximum(times[:-1] - times[-1], 0.0).sum()) * 1e3

    def profile(self, inputs: Mapping[str, Any] | None = None, *, repeat: int = 30) -> Profile:
        """Time of every layer on the board; see `Model.profile`.

        Raises:
            DeviceError: the board is emulated, or failed.
            ValueError: `repeat` is not positive.
        """
        from edgeconv.runtime.profile import from_seconds

        if repeat < 1:
            raise ValueError("repeat must be at least 1")
        self._require_a_real_board()
        with self._lock:
            self._write(self._arrays(self.random_inputs() if inputs is None else inputs))
            times = self.step_times(repeat)
        layers = self.manifest.layers
        seconds = np.median(times[:, :-1], axis=0) - np.median(times[:, -1])
        return from_seconds(layers, seconds, peak_gflops(self.session, self.target) * self.threads)

    def step_times(self, repeat: int) -> np.ndarray:
        """Seconds of each step by the board's clock, [repeat, steps + 1]; the last one is empty."""
        count = len(self.manifest.layers)
        once = float(self._steps(count, 1, 0.0).sum())
        return np.concatenate([self._steps(count, n, once) for n in _batches(repeat, once)])

    def _steps(self, count: int, repeat: int, once: float) -> np.ndarray:
        seconds = 2 * once * repeat
        return self.session.steps(self._library, count, repeat, self._tensors, seconds=seconds)

    def close(self) -> None:
        """End the session; the board is free for the next client."""
        self.session.close()

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _tensors(self) -> list[Any]:
        return [*self._ins, *self._outs, *self._fixed]

    def _write(self, arrays: Sequence[np.ndarray]) -> None:
        for tensor, array in zip(self._ins, arrays, strict=True):
            if array.size:
                self.session.write(tensor, array)

    def _require_a_real_board(self) -> None:
        if self.info.emulated:
            raise DeviceError(
                f"{self.session.address} is emulated: times measured there say nothing about a "
                "board; run without timing (--repeat 0)"
            )

    def _call(self, tensors: list[Any], first: int = 0, last: int = ALL_STEPS) -> None:
        raise NotImplementedError  # steps of a remote model are run by `step_times`


class RemoteCall:
    """A remote model with its arrays fixed.

    Attributes:
        inputs: arrays copied to the board by every call; change them in place.
        outputs: arrays written by every call.
    """

    def __init__(self, model: RemoteModel, arrays: list[np.ndarray]) -> None:
        self.inputs = {s.name: a for s, a in zip(model.inputs, arrays, strict=True)}
        self.outputs = {s.name: aligned(s.shape, s.dtype) for s in model.outputs}
        self._model = model

    def __call__(self) -> dict[str, np.ndarray]:
        """One inference; returns `outputs`."""
        for name, array in self._model.run(self.inputs).items():
            self.outputs[name][...] = array
        return self.outputs


def _tensor(session: Session, spec: TensorSpec) -> Any:
    """Memory for an input or output; empty ones have one element, as `main` wants them."""
    return session.empty((1,) if 0 in spec.shape else spec.shape, spec.dtype)


def _batches(count: int, seconds: float) -> list[int]:
    """`count` divided into requests of about `_BATCH` seconds."""
    most = max(1, int(_BATCH / max(seconds, 1e-6)))
    return [min(most, count - start) for start in range(0, count, most)]


def peak_gflops(session: Session, device: Device) -> float:
    """Measured float32 peak of one core of the board, in GFLOP/s; see `targets.probe`.

    Raises:
        BuildError: no linker for the board.
        DeviceError: a fault of the board.
    """
    return probe.flops(device) / min(peak_timer(session, device)()) / 1e9


def peak_timer(session: Session, device: Device) -> Callable[[], tuple[float, ...]]:
    """Times the fixed loop of `targets.probe` on the board, ten times a call, in seconds.

    Raises:
        BuildError: no linker for the board.
        DeviceError: a fault of the board.
    """
    linker = find_linker(device)
    if linker is None:
        raise DeviceError(f"can't measure the board's peak: {no_linker(device)}")
    code = link(object_code(probe.build(device)), linker, device.arch)
    module = session.load(session.upload(code, "probe.so"), device)
    buffer = session.tensor(probe.buffer_values(device))
    return lambda: session.time(module, "probe", [buffer], repeat=10)
