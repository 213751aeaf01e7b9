"""edgeconv with tuned knobs: records as `edgeconv compile` finds them; kernels that have none
are tuned for a bounded time first, into a folder that is thrown away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import edgeconv
from edgeconv.artifact import Artifact
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer
from edgeconv.benchmarks.peers.edgeconv import bound
from edgeconv.importer import import_model, read_model
from edgeconv.targets import Device, load
from edgeconv.targets.host import available_cores, cpu_model
from edgeconv.tuning import plan, records, whole
from edgeconv.tuning.record import Record
from edgeconv.tuning.runner import ProcessRunner, Runner
from edgeconv.tuning.tuner import Tuner

BUDGET_S = 120.0  # of each network


def prepare(
    path: Path, inputs: Arrays, threads: int, target: str = "host", lock: Path | None = None
) -> Bound:
    """Compiled with records, after tuning what has none; `lock` is held while that measures.

    Raises:
        EdgeconvError: the network has no convolutions or pools, or nothing could be measured.
    """
    device = plan.with_threads(load(target), threads)
    known = records.load(device, records.default_folders())
    items = plan.items(import_model(read_model(path)), device, threads)
    missing = [i for i in items if known.record(i.task, device, exact=False) is None]
    if missing:
        runner = ProcessRunner(threads, lock=lock)
        try:
            found = tune(path, missing, device, runner)
        finally:
            runner.close()
        for record in found:
            known.add(record)
    return bound(edgeconv.compile(path, device, threads=threads, records=known), inputs)


def tune(
    path: Path,
    items: Sequence[plan.Item],
    device: Device,
    runner: Runner,
    budget_s: float | None = BUDGET_S,
) -> list[Record]:
    """Search, finals, and the comparison of the whole network, as `edgeconv tune` does it; the
    records that stood it.

    Raises:
        TuningFailed: nothing could be measured.
    """
    with tempfile.TemporaryDirectory(prefix="edgeconv-bench-") as folder:
        tuner = Tuner(
            items,
            device,
            plan.Options(budget_s=budget_s),
            runner,
            Path(folder),
            cpu_model=cpu_model(),
            cores=len(available_cores()),
        )

        def compile_(found: records.Records | None) -> Artifact:
            """With what was known before, and what was found."""
            asked = records.load(device, records.default_folders())
            for record in [] if found is None else _found(tuner):
                asked.add(record)
            return edgeconv.compile_artifact(path, device, threads=device.cores, records=asked)

        try:
            tuner.run()
            whole.check_network(tuner, compile_)
        finally:
            tuner.close()
        return _found(tuner)


def _found(tuner: Tuner) -> list[Record]:
    return [s.record for s in tuner.states if s.record is not None]


PEER = Peer(
    "edgeconv_tuned",
    "edgeconv, tuned",
    ("edgeconv",),
    ("edgeconv",),
    prepare,
    f"with records, and {BUDGET_S:g} s of tuning where there are none",
    on_request=True,
)


def configured(target: str, lock: Path | None) -> Peer:
    """For a target that runs here, holding a file locked while it measures."""
    note = PEER.note if target == "host" else f"{PEER.note}, for {target}"
    return replace(PEER, prepare=partial(prepare, target=target, lock=lock), note=note)
