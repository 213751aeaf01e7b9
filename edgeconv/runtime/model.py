"""A compiled network in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.artifact import Artifact, Manifest, TensorSpec
from edgeconv.errors import InputError
from edgeconv.runtime import threads
from edgeconv.runtime.buffers import aligned, as_array, as_tensor
from edgeconv.runtime.latency import Latency, measure
from edgeconv.targets import Device

if TYPE_CHECKING:
    from edgeconv.runtime.profile import Profile

ALL_STEPS = 1 << 30


class Model:
    """Runs a compiled network. Calls of one model take turns: it has one workspace."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._main = artifact.open_module()["main"]
        manifest = artifact.manifest
        constants = artifact.constants
        if not constants.size:
            constants = aligned((1,), "uint8")
        workspace = aligned((max(manifest.workspace_bytes, 1),), "uint8", zero=True)
        self._memory = (constants, workspace)
        self._fixed = tuple(as_tensor(a) for a in self._memory)
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """Inputs, outputs, layers, target and versions."""
        return self.artifact.manifest

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and types of the inputs, in order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and types of the outputs, in order."""
        return self.manifest.outputs

    @property
    def target(self) -> Device:
        """The device the network was compiled for."""
        return self.manifest.device

    @property
    def threads(self) -> int:
        """Threads the network was compiled for."""
        return self.manifest.threads

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """One inference.

        Args:
            inputs: every input by name: numpy arrays, or any DLPack tensors on the CPU.

        Returns:
            Every output by name, in arrays of their own.

        Raises:
            InputError: a name, shape or type does not fit.
        """
        arrays = self._arrays(inputs)
        results = [aligned(s.shape, s.dtype) for s in self.outputs]
        self._call([as_tensor(a) for a in (*arrays, *results)])
        return {s.name: a for s, a in zip(self.outputs, results, strict=True)}

    def __call__(self, *inputs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """One inference with positional inputs; a single output comes as the bare array."""
        if len(inputs) != len(self.inputs):
            wanted = "; ".join(map(str, self.inputs))
            raise InputError(f"got {len(inputs)} positional inputs, the model wants {wanted}")
        results = self.run({s.name: x for s, x in zip(self.inputs, inputs, strict=True)})
        return next(iter(results.values())) if len(results) == 1 else results

    def bind(self, inputs: Mapping[str, Any]) -> BoundCall:
        """Fix the buffers once: the returned call reads the arrays given here, each time anew.

        Arrays that are contiguous and writeable are used as they are; others are copied once, and
        the copy is in `call.inputs`. Results lie in `call.outputs` and are overwritten by each
        call.

        Raises:
            InputError: a name, shape or type does not fit.
        """
        return BoundCall(self, self._arrays(inputs))

    def benchmark(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        warmup: int = 5,
        repeat: int = 50,
        min_repeat_ms: float = 2.0,
    ) -> Latency:
        """Latency of bound calls on the given inputs, or on seeded random ones."""
        call = self.bind(self.random_inputs() if inputs is None else inputs)
        return measure(call, warmup=warmup, repeat=repeat, min_repeat_ms=min_repeat_ms)

    def profile(self, inputs: Mapping[str, Any] | None = None, *, repeat: int = 30) -> Profile:
        """Time of every layer, the network running in order, median of `repeat` runs."""
        from edgeconv.runtime.profile import profile  # the profiler needs this class

        return profile(self, self.random_inputs() if inputs is None else inputs, repeat)

    def random_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Standard-normal (integers: 0 to 9, bool: coin flips) inputs from a seed."""
        return random_arrays(self.inputs, seed)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to one file; see `edgeconv.load`."""
        return self.artifact.save(path)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(s.name for s in self.inputs)

    def _arrays(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        if not isinstance(inputs, Mapping):
            example = ", ".join(f"{s.name!r}: ..." for s in self.inputs)
            raise InputError(
                f"inputs are a dict by name: {{{example}}}; got {type(inputs).__name__}"
            )
        if inputs.keys() != self._names:
            missing = ", ".join(sorted(self._names - inputs.keys()))
            unknown = ", ".join(sorted(map(str, inputs.keys() - self._names)))
            faults = [f"missing: {missing}"] * bool(missing) + [f"unknown: {unknown}"] * bool(
                unknown
            )
            wanted = "; ".join(map(str, self.inputs))
            raise InputError(f"inputs do not fit ({'; '.join(faults)}); the model wants {wanted}")
        return [as_array(inputs[s.name], s) for s in self.inputs]

    def _call(self, tensors: list[Any], first: int = 0, last: int = ALL_STEPS) -> None:
        with self._lock:
            threads.use(self.threads)
            self._main(*tensors, *self._fixed, first, last)

    def __repr__(self) -> str:
        ins, outs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"<edgeconv.Model {self.manifest.name} ({ins}) -> ({outs}) for {self.target.name}>"


class BoundCall:
    """A model with its buffers fixed; calling it costs next to nothing over the native function.

    Attributes:
        inputs: arrays read by every call; change them in place.
        outputs: arrays written by every call.
    """

    def __init__(self, model: Model, arrays: list[np.ndarray]) -> None:
        self.inputs = {s.name: a for s, a in zip(model.inputs, arrays, strict=True)}
        self.outputs = {s.name: aligned(s.shape, s.dtype) for s in model.outputs}
        buffers = [*self.inputs.values(), *self.outputs.values()]
        self._tensors = [as_tensor(a) for a in buffers]
        self._model = model
        self._arguments = (*self._tensors, *model._fixed, 0, ALL_STEPS)
        self._main, self._lock, self._threads = model._main, model._lock, model.threads

    def __call__(self) -> dict[str, np.ndarray]:
        """One inference on the bound buffers; returns `outputs`."""
        with self._lock:
            threads.use(self._threads)
            self._main(*self._arguments)
        return self.outputs

    def steps(self, first: int, last: int) -> None:
        """Run only layers `first` to `last` − 1, on what earlier calls left in the workspace."""
        self._model._call(self._tensors, first, last)


def random_arrays(specs: tuple[TensorSpec, ...], seed: int) -> dict[str, np.ndarray]:
    """Seeded random arrays for these inputs."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in specs:
        kind = np.dtype(spec.dtype).kind
        values: np.ndarray
        if kind == "f":
            values = rng.standard_normal(spec.shape)
        elif kind == "b":
            values = rng.integers(0, 2, spec.shape)
        else:
            values = rng.integers(0, 10, spec.shape)
        array = aligned(spec.shape, spec.dtype)
        array[...] = values
        arrays[spec.name] = array
    return arrays
