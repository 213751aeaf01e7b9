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
from typing import Any

import numpy as np
import tvm

from edgeconv.runtime import threads
from edgeconv.targets import Device
from edgeconv.tuning import kernels, numbers
from edgeconv.tuning.candidates import Candidate
from edgeconv.workload import ConvTask

FIRST_BLOCK_S = 5e-4  # of the first round, which drops who is far behind
FAR_BEHIND = 1.5  # times the default
MOST_CALLS = 100_000
Library = tuple[bytes, list[Candidate]]


@dataclass(frozen=True)
class Plan:
    """How to measure: rounds, and seconds of a block of calls."""

    rounds: int = 5
    block_s: float = 2e-3


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
    """Where kernels run: this machine, or what an opener connects to."""

    def __init__(self, opener: Callable[[], Any] | None = None) -> None:
        self.remote = None if opener is None else opener()
        self.device = tvm.cpu() if self.remote is None else self.remote.cpu()
        self._folder = tempfile.TemporaryDirectory(prefix="edgeconv-tune-")
        self._count = 0

    def load(self, library: bytes) -> Any:
        """The module in a shared library."""
        self._count += 1
        name = f"tune{self._count}.so"
        path = Path(self._folder.name, name)
        path.write_bytes(library)
        if self.remote is None:
            return tvm.runtime.load_module(str(path))
        self.remote.upload(str(path))
        return self.remote.load_module(name)

    def tensor(self, array: np.ndarray) -> Any:
        """A flat copy of an array where the kernels run."""
        flat = np.ascontiguousarray(array).reshape(-1)
        return tvm.runtime.tensor(flat, self.device)

    def timer(self, module: Any, symbol: str, arguments: Sequence[Any]) -> Callable[[int], float]:
        """Seconds that a number of calls takes."""
        if self.remote is None:
            function = module[symbol]

            def here(calls: int) -> float:
                begin = time.perf_counter()
                function(*arguments[:-4], calls, *arguments[-3:])
                return time.perf_counter() - begin

            return here
        evaluator = module.time_evaluator(symbol, self.device, number=1, repeat=1)

        def there(calls: int) -> float:
            return float(evaluator(*arguments[:-4], calls, *arguments[-3:]).results[0])

        return there


_session: list[Session] = []


def open_session(opener: Callable[[], Any] | None) -> None:
    """Connect this process with what it measures on."""
    _session[:] = [Session(opener)]


class _Kernel:
    """A candidate that is loaded."""

    def __init__(
        self, candidate: Candidate, module: Any, index: int, task: ConvTask, device: Device
    ) -> None:
        self.candidate, self.module, self.symbol = candidate, module, kernels.symbol(index)
        self.task, self.device = task, device
        self.calls = 1
        self.samples: list[float] = []
        self.defaults: list[float] = []
        self.time: Callable[[int], float] = lambda calls: 0.0

    def prepare(self, arrays: Sequence[Any], given: numbers.Numbers, session: Session) -> None:
        """Bind it to arrays, and pack its weights."""
        blob, copies, stride, bias = kernels.constants(
            self.task, self.device, self.candidate, given.weight, given.bias
        )
        arguments = [*arrays, session.tensor(blob), 1, copies, stride, bias]
        self.time = session.timer(self.module, self.symbol, arguments)

    def block(self, seconds: float) -> float:
        """Microseconds of a run in a block of about `seconds`."""
        taken = self.time(self.calls) / self.calls
        self.calls = max(1, min(MOST_CALLS, int(seconds / max(taken, 1e-9))))
        return taken * 1e6


def measure(
    task: ConvTask,
    device: Device,
    libraries: Sequence[Library],
    plan: Plan,
    note: Callable[[int], None],
) -> list[Outcome]:
    """The outcome of every candidate, in the order of the libraries; the first is the default.

    `note` is told the number of each candidate before it runs: who reads that knows which one
    crashed or hung.
    """
    session = _session[0]
    threads.use(device.cores)
    given = numbers.whole_numbers(task)
    blank = np.full_like(given.out, numbers.UNTOUCHED)
    out = session.tensor(blank)
    inputs = [session.tensor(a) for a in (given.data, given.residual) if a is not None]
    loaded = []
    for library, candidates in libraries:
        module = session.load(library)
        loaded += [_Kernel(c, module, i, task, device) for i, c in enumerate(candidates)]
    faults: list[str] = []
    for number, kernel in enumerate(loaded):
        note(number)
        out.copyfrom(blank.reshape(-1))
        kernel.prepare([*inputs, out], given, session)
        kernel.time(1)
        got = np.asarray(out.numpy()).reshape(given.out.shape)
        faults.append(numbers.fault(task, given.out, got, kernel.candidate.of.exact) or "")
    if faults and not faults[0]:
        _rounds([k for k, f in zip(loaded, faults, strict=True) if not f], plan, note, loaded)
    return [
        Outcome(fault, tuple(kernel.samples), tuple(kernel.defaults))
        for kernel, fault in zip(loaded, faults, strict=True)
    ]


def _rounds(
    right: Sequence[_Kernel], plan: Plan, note: Callable[[int], None], loaded: Sequence[_Kernel]
) -> None:
    """Time all, in turns; the default is the first and takes part in every round."""
    default, alive = right[0], list(right)
    numbers_of = {id(kernel): number for number, kernel in enumerate(loaded)}
    for kernel in alive:
        note(numbers_of[id(kernel)])
        kernel.block(FIRST_BLOCK_S)
    for number in range(plan.rounds):
        block_s = FIRST_BLOCK_S if number == 0 and plan.rounds > 1 else plan.block_s
        turn = number % len(alive)
        taken = {}
        for kernel in [*alive[turn:], *alive[:turn]]:
            note(numbers_of[id(kernel)])
            taken[id(kernel)] = kernel.block(block_s)
        reference = taken[id(default)]
        for kernel in alive:
            kernel.samples.append(taken[id(kernel)])
            kernel.defaults.append(reference)
        if number == 0:
            far = FAR_BEHIND * reference
            alive = [k for k in alive if k is default or taken[id(k)] <= far]
