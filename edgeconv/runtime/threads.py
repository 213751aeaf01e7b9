"""TVM's thread pool, set to what a model was compiled for."""

from __future__ import annotations

import tvm

_SHARE_ALL_CORES = -3  # threads are not pinned one to a core: the caller's affinity stays
_current: int | None = None


def use(threads: int) -> None:
    """Let parallel kernels run on this many threads. One thread needs no pool at all."""
    global _current
    if threads == 1 or threads == _current:
        return
    tvm.get_global_func("runtime.config_threadpool")(1, threads)
    _current = threads
