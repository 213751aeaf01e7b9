"""Records that outlive a change of the schedules: those whose machine code is still the same.

Records are bound to the sources of their schedule, and any change there makes all of its records
void. Most changes don't touch most kernels. So a record also keeps a digest of its kernel's
assembly; where a later version generates the same, the time that was measured still holds. That
of the default is of the version that measured: today's may be faster.
"""

from __future__ import annotations

import dataclasses
import hashlib

import tvm
from tvm.s_tir.schedule import ScheduleError

from edgeconv import codegen
from edgeconv.errors import BuildError
from edgeconv.targets import Device
from edgeconv.tuning import keys, records
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.families import TwoKernels
from edgeconv.tuning.kernels import steps
from edgeconv.tuning.record import Record
from edgeconv.workload import Task


def kernel_digest(task: Task, device: Device, candidate: Candidate) -> str:
    """A short hash of the assembly of a candidate's kernels; empty where LLVM can't make it."""
    try:
        functions = {
            f"kernel{number}": codegen.with_pointer_parameters(step.build(), f"kernel{number}")
            for number, step in enumerate(steps(task, device, candidate))
        }
        library = codegen.build(functions, device.tvm_target(device.cores))
    except (BuildError, ScheduleError):
        return ""
    code = without_debug(library.inspect_source("asm"))
    return hashlib.sha256(code.encode()).hexdigest()[: keys.DIGEST]


def without_debug(assembly: str) -> str:
    """Assembly without the sections that hold names of variables and lines of sources."""
    kept, is_code = [], True
    for line in assembly.splitlines():
        if line.lstrip().startswith((".section", ".text", ".data")):
            is_code = ".debug" not in line
        if is_code:
            kept.append(line)
    return "\n".join(kept)


def renewed(record: Record) -> Record | None:
    """The record for the present sources, if its kernel is the one that was measured; it then has
    its digest. None for records that no longer hold, and for those of two kernels from other
    versions: what was slower than those may have become faster.
    """
    current = records.is_current(record)
    if current and record.kernel:
        return record
    known = record.kernel and record.tvm == tvm.__version__
    if not current and (not known or isinstance(record.of, TwoKernels)):
        return None
    try:
        device = records.device_of(record)
    except records.RecordError:
        return None
    if records.illegal(record, device) is not None:
        return None
    digest = kernel_digest(record.task, device, Candidate(record.family, record.knobs))
    if current:
        return dataclasses.replace(record, kernel=digest)
    if digest != record.kernel:
        return None
    return dataclasses.replace(record, source=keys.source_hash(record.of))
