"""TVM as its tutorials use it: importer, pipeline, `relax.build`; untuned or by MetaSchedule.

Tuning takes minutes a layer: it runs only where it is asked for by name, and needs a high --limit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeconv import targets
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported

TRIALS = 64  # of each task


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """The Relax virtual machine on tensors made once."""
    from tvm import relax

    return _bound(relax.build(_imported(path, inputs), _target(threads)), inputs)


def prepare_tuned(path: Path, inputs: Arrays, threads: int, trials: int = TRIALS) -> Bound:
    """The same, every task tuned by MetaSchedule first.

    Raises:
        Unsupported: not one candidate was measured; MetaSchedule itself says nothing then.
    """
    from tvm import relax

    module, target = _imported(path, inputs), _target(threads)
    with tempfile.TemporaryDirectory() as folder, target:
        tuned = relax.get_pipeline(
            "static_shape_tuning",
            total_trials=trials * _MOST_TASKS,
            target=target,
            work_dir=folder,
            max_trials_per_task=trials,
        )(module)
        records = Path(folder, "database_tuning_record.json")
        if not records.exists() or not records.read_text(encoding="utf-8").strip():
            raise Unsupported("MetaSchedule measured no candidate")
    return _bound(relax.build(tuned, target), inputs)


_MOST_TASKS = 1000  # no limit but that of each task


def _imported(path: Path, inputs: Arrays) -> Any:
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {name: list(array.shape) for name, array in inputs.items()}
    return from_onnx(onnx.load(path), shape_dict=shapes, keep_params_in_input=False)


def _target(threads: int) -> Any:
    return targets.host().tvm_target(threads)


def _bound(executable: Any, inputs: Arrays) -> Bound:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(executable, tvm.cpu())
    tensors = [tvm.runtime.tensor(array) for array in inputs.values()]
    results: list[Any] = [None]

    def call() -> None:
        results[0] = machine["main"](*tensors)

    def outputs() -> list[np.ndarray]:
        found = results[0] if isinstance(results[0], (list, tuple)) else [results[0]]
        return [np.asarray(tensor.numpy()) for tensor in found]

    return Bound(call, outputs)


PEER = Peer(
    "tvm", "TVM, untuned", ("apache-tvm",), ("tvm",), prepare, "stock importer and pipeline"
)
TUNED = Peer(
    "tvm_tuned",
    "TVM, tuned",
    ("apache-tvm", "xgboost", "psutil"),
    ("tvm", "xgboost", "psutil"),
    prepare_tuned,
    f"stock importer, MetaSchedule with {TRIALS} trials a task",
    on_request=True,
)
