"""ExecuTorch with the XNNPACK backend, exported from the same PyTorch module as PyTorch's peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """A method of a program lowered to XNNPACK; the pool of threads is the process's.

    Raises:
        Unsupported: XNNPACK took nothing of the network.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    from edgeconv.benchmarks.peers.torch_graph import to_torch

    tensors = [torch.from_numpy(a.copy()) for a in inputs.values()]
    with torch.no_grad():
        exported = torch.export.export(to_torch(path), tuple(tensors))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    targets = {str(n.target) for n in lowered.exported_program().graph.nodes}
    if "executorch_call_delegate" not in targets:
        raise Unsupported("XNNPACK took nothing of the graph")
    portable_lib._unsafe_reset_threadpool(threads)
    contents = lowered.to_executorch().buffer
    program = Runtime.get().load_program(contents)
    method = program.load_method("forward")
    results: list[Any] = [None]

    def call(_kept: Any = (contents, program)) -> None:  # a method points into both
        results[0] = method.execute(tensors)

    def outputs() -> list[np.ndarray]:
        return [t.numpy() for t in results[0]]

    return Bound(call, outputs)


PEER = Peer(
    "executorch",
    "ExecuTorch",
    ("executorch", "torch"),
    ("executorch", "torch"),
    prepare,
    "XNNPACK backend, exported by torch.export",
)
