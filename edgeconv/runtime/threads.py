"""TVM's thread pool, set to what a model was compiled for."""

from __future__ import annotations

import os
import threading

import tvm

from edgeconv.targets.host import available_cores

_SHARE_CORES = -3  # every worker may use all the cores given; the default pins one thread to each
_configured = threading.local()  # TVM keeps a pool for every thread that calls it


def use(threads: int) -> None:
    """Let parallel kernels run on this many threads. One thread needs no pool at all."""
    if threads != 1 and threads != getattr(_configured, "threads", None):
        configure(threads)


def configure(threads: int) -> None:
    """Make the pool of the calling thread anew, with so many workers."""
    cores = sorted(available_cores())
    make = tvm.get_global_func("runtime.config_threadpool")
    make(_SHARE_CORES, threads, [str(c) for c in cores])
    _restore(set(cores))  # configuring moves the calling thread as well
    _configured.threads = threads


def _restore(cores: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
