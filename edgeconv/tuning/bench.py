"""Checks and times the candidates of a task, in the measuring process.

What runs kernels is a TVM session: this process itself, or a device behind RPC. In every round each
candidate runs a block of calls, and so does the default: a candidate's speed is the median over the
rounds of its time over the default's in the same round, so a clock that drifts cancels out.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm

from edgeconv.runtime import threads
from edgeconv.targets import Device
from edgeconv.tuning import kernels, numbers
from edgeconv.tuning.candidates import Candidate
from edgeconv.workload import Task

if TYPE_CHECKING:
    from edgeconv.tuning.network import Timed

FIRST_BLOCK_S = 5e-4  # of the first round, which drops who is far behind
FAR_BEHIND = 1.5  # times the default
MOST_CALLS = 100_000
PREPARING, TIMING = -1, -2  # notes that name no candidate
Library = tuple[bytes, list[tuple[Candidate, int]]]  # and the number of its kernel there


@dataclass(frozen=True)
class Plan:
    """How to measure: rounds, seconds of a block of calls, whether to drop who is far behind."""

    rounds: int = 5
    block_s: float = 2e-3
    drop: bool = True


@dataclass(frozen=True)
class Outcome:
    """One candidate: why it does not count, or its times.

    Attributes:
        fault: what was wrong with its result; empty if nothing.
        samples_us: microseconds of a run in each round it took part in.
        default_us: the default's in the same rounds.
    """

    fault: str = ""
    samples_us: tuple[float, ...] = ()
    default_us: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        """Time over the default's, median over the rounds."""
        pairs = zip(self.samples_us, self.default_us, strict=True)
        return statistics.median(own / default for own, default in pairs)


class Session:
    """Where kernels run: this process. `remote.BoardSession` is a board."""

    def threads(self, count: int) -> None:
        """Let parallel kernels run on so many threads."""
        threads.use(count)

    def load(self, library: bytes, device: Device) -> Any:
        """The module in a shared library."""
        # A folder for each: this process ends by SIGKILL, and could not remove one of its own.
        with tempfile.TemporaryDirectory(prefix="edgeconv-tune-") as folder:
            path = Path(folder, "tune.so")
            path.write_bytes(library)
            return tvm.runtime.load_module(str(path))

    def tensor(self, array: np.ndarray) -> Any:
        """A flat copy of an array where the kernels run."""
        return tvm.runtime.tensor(np.ascontiguousarray(array).reshape(-1))

    def write(self, tensor: Any, array: np.ndarray) -> None:
        """Copy an array into a tensor."""
        tensor.copyfrom(np.ascontiguousarray(array).reshape(-1))

    def read(self, tensor: Any) -> np.ndarray:
        """A flat copy of a tensor."""
        return np.asarray(tensor.numpy())

    def timer(
        self, module: Any, symbol: str, before: Sequence[Any], after: Sequence[int]
    ) -> Callable[[int], float]:
        """What runs a function so many times and returns the seconds; see `kernels.symbol`.

        Its arguments are arrays `before` the number of calls, and whole numbers `after` it.
        """
        function = module[symbol]

        def run(calls: int) -> float:
            begin = time.perf_counter()
            function(*before, calls, *after)
            return time.perf_counter() - begin

        return run

    def network(self, path: str, inputs: dict[str, np.ndarray]) -> Timed:
        """A compiled network, ready to be timed."""
        from edgeconv.tuning.network import Local  # which needs this module

        return Local(path, inputs)


_session: list[Session] = []


def session() -> Session:
    """What this process measures on."""
    return _session[0]


def open_session(address: str | None, timeout_s: float) -> None:
    """Connect this process with what it measures on: a board, or itself.

    Raises:
        DeviceError: the board can't be reached within the timeout.
    """
    if address is None:
        _session[:] = [Session()]
    else:
        from edgeconv.tuning.remote import BoardSession  # which needs this module

        _session[:] = [BoardSession(address, timeout_s)]


class _Kernel:
    """A candidate that is loaded."""

    def __init__(
        self, candidate: Candidate, module: Any, index: int, task: Task, device: Device
    ) -> None:
        self.candidate, self.module, self.symbol = candidate, module, kernels.symbol(index)
        self.task, self.device = task, device
        self.calls = 1
        self.samples: list[float] = []
        self.defaults: list[float] = []
        self.time: Callable[[int], float] = lambda calls: 0.0

    def prepare(self, arrays: Sequence[Any], given: numbers.Numbers, session: Session) -> None:
        """Bind it to arrays, and pack its weights."""
        parts = kernels.packed(self.task, self.device, self.candidate, given.weights, given.biases)
        blob, places = kernels.constants(self.device, parts)
        before = [*arrays, session.tensor(blob)]
        self.time = session.timer(self.module, self.symbol, before, places)

    def block(self, seconds: float) -> float:
        """Microseconds of a run in a block of about `seconds`."""
        taken = self.time(self.calls) / self.calls
        self.calls = max(1, min(MOST_CALLS, int(seconds / max(taken, 1e-9))))
        return taken * 1e6


def measure(
    task: Task,
    device: Device,
    libraries: Sequence[Library],
    plan: Plan,
    note: Callable[[int], None],
) -> list[Outcome]:
    """The outcome of every candidate, in the order of the libraries; the first is the default.

    `note` is told the number of each candidate before it runs for the first time: who reads that
    knows which one crashed or hung.
    """
    here = session()
    note(PREPARING)
    here.threads(device.cores)
    given = numbers.whole_numbers(task)
    blank = np.full_like(given.out, numbers.UNTOUCHED)
    out = here.tensor(blank)
    inputs = [here.tensor(a) for a in (given.data, given.residual) if a is not None]
    if (between := kernels.shapes(task, device).get("between")) is not None:
        inputs.append(here.tensor(np.zeros(between, np.float32)))
    loaded = []
    for library, candidates in libraries:
        module = here.load(library, device)
        loaded += [_Kernel(c, module, i, task, device) for c, i in candidates]
        note(PREPARING)
    faults: list[str] = []
    for number, kernel in enumerate(loaded):
        note(number)
        here.write(out, blank)
        kernel.prepare([*inputs, out], given, here)
        kernel.time(1)
        got = here.read(out).reshape(given.out.shape)
        faults.append(numbers.fault(task, given.out, got, kernel.candidate.of.exact) or "")
    if faults and not faults[0]:
        right = [number for number, fault in enumerate(faults) if not fault]
        for number in right:
            note(number)
            loaded[number].block(FIRST_BLOCK_S)
        _rounds([loaded[number] for number in right], plan, note)
    return [
        Outcome(fault, tuple(kernel.samples), tuple(kernel.defaults))
        for kernel, fault in zip(loaded, faults, strict=True)
    ]


def _rounds(right: Sequence[_Kernel], plan: Plan, note: Callable[[int], None]) -> None:
    """Time all, in turns; the default is the first and takes part in every round."""
    default, alive = right[0], list(right)
    for number in range(plan.rounds):
        first = number == 0 and plan.drop
        block_s = FIRST_BLOCK_S if first else plan.block_s
        turn = number % len(alive)
        taken = {}
        note(TIMING)  # once a round: who reads it takes time from the core
        for kernel in [*alive[turn:], *alive[:turn]]:
            taken[id(kernel)] = kernel.block(block_s)
        reference = taken[id(default)]
        for kernel in alive:
            kernel.samples.append(taken[id(kernel)])
            kernel.defaults.append(reference)
        if first:
            far = FAR_BEHIND * reference
            alive = [k for k in alive if k is default or taken[id(k)] <= far]
