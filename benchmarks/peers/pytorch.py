"""PyTorch: eager, eager in channels-last, and inductor in both layouts.

Inductor with `freezing` wins in one layout and loses in the other, so both are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer


def _eager(path: Path, inputs: Arrays, threads: int) -> Bound:
    return _bound(path, inputs, threads, channels_last=False, compiled=False)


def _channels_last(path: Path, inputs: Arrays, threads: int) -> Bound:
    return _bound(path, inputs, threads, channels_last=True, compiled=False)


def _inductor(path: Path, inputs: Arrays, threads: int) -> Bound:
    return _bound(path, inputs, threads, channels_last=False, compiled=True)


def _inductor_channels_last(path: Path, inputs: Arrays, threads: int) -> Bound:
    return _bound(path, inputs, threads, channels_last=True, compiled=True)


def _bound(
    path: Path, inputs: Arrays, threads: int, *, channels_last: bool, compiled: bool
) -> Bound:
    import torch

    from edgeconv.benchmarks.peers.torch_graph import to_torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module: Callable[..., Any] = to_torch(path).to(memory_format=layout)
    tensors = [
        torch.from_numpy(a.copy()).contiguous(memory_format=layout)
        if a.ndim == 4
        else torch.from_numpy(a.copy())
        for a in inputs.values()
    ]
    if compiled:
        from torch._inductor import config

        torch._dynamo.reset()
        config.freezing = True
        module = torch.compile(module)
        for _ in range(2):  # the first call compiles, the second may again
            module(*tensors)
    results: list[Any] = [None]

    def call() -> None:
        results[0] = module(*tensors)

    def outputs() -> list[np.ndarray]:
        found = results[0] if isinstance(results[0], (tuple, list)) else [results[0]]
        return [t.numpy() for t in found]

    return Bound(call, outputs)


EAGER = Peer("torch", "PyTorch", ("torch",), ("torch",), _eager, "eager, NCHW")
CHANNELS_LAST = Peer(
    "torch_cl", "PyTorch NHWC", ("torch",), ("torch",), _channels_last, "eager, channels-last"
)
INDUCTOR = Peer(
    "inductor", "inductor", ("torch",), ("torch",), _inductor, "torch.compile, freezing, NCHW"
)
INDUCTOR_CHANNELS_LAST = Peer(
    "inductor_cl",
    "inductor NHWC",
    ("torch",),
    ("torch",),
    _inductor_channels_last,
    "torch.compile, freezing, channels-last",
)
