"""TVM tuned by plain MetaSchedule: stock importer, default search space, strategy and cost model.

Every task of a network is tuned by itself and its records are kept in the user's cache, by kernel,
target, CPU, version and trials: an interrupted run goes on where it was, and networks share tasks.
Candidates are measured where the comparison will be. A task none of whose candidates could be
measured stays untuned, as in `relax.build`; if that is all of them, the reason is an error.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgeconv.benchmarks.peers import tvm as untuned
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported, package_version
from edgeconv.targets.host import available_cores, cpu_model

TRIALS = 64  # of each task
_FAILED_S = 1e9  # MetaSchedule stores 1e10 seconds for a candidate that could not be measured
_RECORDS, _WORKLOADS = "records.json", "workloads.json"
# TVM parses the intrinsics of all its targets, half a minute in every process; CPUs need none of
# these.
_NOT_FOR_CPUS = tuple(f"tvm.s_tir.tensor_intrin.{n}" for n in ("cuda", "rocm", "hexagon"))


@dataclass(frozen=True)
class Place:
    """Where and how candidates are measured.

    Attributes:
        threads: of a kernel.
        cores: that it may use; none: those of this process.
        lock: file to hold locked while measuring.
    """

    threads: int
    cores: tuple[int, ...] = ()
    lock: Path | None = None


def cache_folder() -> Path:
    """`edgeconv/metaschedule` in XDG_CACHE_HOME, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return home / "edgeconv" / "metaschedule"


def prepare(
    path: Path,
    inputs: Arrays,
    threads: int,
    *,
    trials: int = TRIALS,
    place: Place | None = None,
    starting: Callable[[str], None] = lambda step: None,
) -> Bound:
    """Tuned, what the cache lacks, and compiled with the best of each task.

    Args:
        starting: is told each task before it is tuned.

    Raises:
        Unsupported: not one candidate of any task could be measured; MetaSchedule itself says
            nothing then.
    """
    _without_intrinsics()
    from tvm.s_tir import meta_schedule
    from tvm.s_tir.meta_schedule.relax_integration import compile_relax

    module, target = untuned.imported(path, inputs), untuned.target(threads)
    tasks = _tasks(module, target)
    best, errors = meta_schedule.database.MemoryDatabase(), list[str]()
    for number, task in enumerate(tasks, 1):
        starting(f"task {number} of {len(tasks)}")
        kept = cache_folder() / _key(task, target, trials)
        if not _usable(kept):
            errors += _tune(task, target, trials, place or Place(threads), kept)
        if _usable(kept):
            _copy_best(kept, best)
    if tasks and not len(best):
        raise Unsupported(
            f"MetaSchedule could measure no candidate of {len(tasks)} tasks: "
            f"{errors[0] if errors else 'it gave no reason'}"
        )
    return untuned.bound(compile_relax(best, module, target, params=None), inputs, threads)


def _without_intrinsics() -> None:
    for name in _NOT_FOR_CPUS:
        sys.modules.setdefault(name, types.ModuleType(name))


def _tasks(module: Any, target: Any) -> list[Any]:
    """The kernels of a network, each once, as `compile_relax` will look them up."""
    import tvm
    from tvm import relax
    from tvm.relax.pipeline import library_dispatch_passes
    from tvm.s_tir.meta_schedule.relax_integration import extract_tasks

    with target, tvm.transform.PassContext(opt_level=3):
        fused = tvm.transform.Sequential(
            [
                *library_dispatch_passes(target),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
            ]
        )(module)
        return list(extract_tasks(fused, target))


def _key(task: Any, target: Any, trials: int) -> str:
    """Changes with everything that the records depend on."""
    facts = [cpu_model(), str(target), str(package_version("apache-tvm")), str(trials)]
    text = "\n".join([*facts, task.dispatched[0].script()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _usable(folder: Path) -> bool:
    """A complete database: a torn line would end the process in TVM's reader."""
    try:
        for name in (_WORKLOADS, _RECORDS):
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            if not lines or not all(json.loads(line) for line in lines):
                return False
    except (OSError, ValueError):
        return False
    return True


def _tune(task: Any, target: Any, trials: int, place: Place, kept: Path) -> list[str]:
    """Tune one task and keep its records, unless all failed; the errors of candidates."""
    from tvm.s_tir import meta_schedule as ms

    kept.parent.mkdir(parents=True, exist_ok=True)
    cores = len(available_cores())
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tuning-", dir=kept.parent) as name:
        folder = Path(name, "task")
        folder.mkdir()
        database = ms.database.JSONDatabase(str(folder / _WORKLOADS), str(folder / _RECORDS))
        contexts, weights = ms.relax_integration.extracted_tasks_to_tune_contexts(
            [task], name, num_threads=cores, seed=0
        )
        if not contexts:  # scheduled by a library
            return errors
        ms.tune.tune_tasks(
            tasks=contexts,
            task_weights=weights,
            work_dir=name,
            max_trials_global=trials,
            num_trials_per_iter=min(64, trials),
            builder=ms.builder.LocalBuilder(max_workers=cores, initializer=_in_builder()),
            runner=_runner(place),
            database=database,
            measure_callbacks=[*ms.MeasureCallback.create("default"), _collector(errors)],
        )
        if all(_seconds(r) >= _FAILED_S for r in database.get_all_tuning_records()):
            return errors
        about = f"{task.task_name}\n{target}\n{trials} trials\n"
        (folder / "task.txt").write_text(about, encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)  # what was there is not usable
        folder.rename(kept)
    return errors


# The functions below run in processes of TVM, which get them as values: they must not name this
# module, whose import takes longer than a trial.


def _in_builder() -> Callable[[], None]:
    names = _NOT_FOR_CPUS

    def initialize() -> None:
        import sys
        import types

        for name in names:
            sys.modules.setdefault(name, types.ModuleType(name))

    return initialize


def _runner(place: Place) -> Any:
    from tvm.s_tir import meta_schedule as ms

    cores, threads = place.cores, place.threads
    lock = None if place.lock is None else str(place.lock.resolve())

    def initialize() -> None:
        import os

        os.environ["TVM_NUM_THREADS"] = str(threads)
        os.environ["TVM_BIND_THREADS"] = "0"
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    def evaluate(module: Any, device: Any, config: Any, arguments: Any) -> Any:
        from tvm.s_tir.meta_schedule.runner.utils import run_evaluator_common

        if lock is None:
            return run_evaluator_common(module, device, config, arguments)
        with open(lock, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return run_evaluator_common(module, device, config, arguments)

    return ms.runner.LocalRunner(initializer=initialize, f_run_evaluator=evaluate)


def _collector(errors: list[str]) -> Any:
    """A callback that keeps the last line of every error."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

    @derived_object
    class Collector(PyMeasureCallback):
        """Of builds and of runs."""

        def apply(
            self,
            task_scheduler: Any,
            task_id: int,
            measure_candidates: Sequence[Any],
            builder_results: Sequence[Any],
            runner_results: Sequence[Any],
        ) -> None:
            """Called behind every batch."""
            for result in (*builder_results, *runner_results):
                if result is not None and result.error_msg is not None:
                    errors.append(str(result.error_msg).strip().splitlines()[-1][:200])

    return Collector()


def _seconds(record: Any) -> float:
    times = [float(s) for s in record.run_secs or ()]
    return sum(times) / len(times) if times else _FAILED_S


def _copy_best(kept: Path, to: Any) -> None:
    from tvm.s_tir import meta_schedule as ms

    found = ms.database.JSONDatabase(str(kept / _WORKLOADS), str(kept / _RECORDS))
    record = min(found.get_all_tuning_records(), key=_seconds)
    workload = to.commit_workload(record.workload.mod)
    to.commit_tuning_record(
        ms.database.TuningRecord(
            record.trace, workload, record.run_secs, record.target, record.args_info
        )
    )


def note(trials: int) -> str:
    """How it runs."""
    return f"stock importer, MetaSchedule with {trials} trials a task"


PEER = Peer(
    "tvm_tuned",
    "TVM, tuned",
    ("apache-tvm", "xgboost", "psutil", "cloudpickle"),
    ("tvm", "xgboost", "psutil", "cloudpickle"),
    prepare,
    note(TRIALS),
    on_request=True,
)


def configured(trials: int, place: Place, starting: Callable[[str], None]) -> Peer:
    """With so many trials, measuring there."""
    prepared = partial(prepare, trials=trials, place=place, starting=starting)
    return replace(PEER, prepare=prepared, note=note(trials))
