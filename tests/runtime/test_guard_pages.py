"""Kernels read and write nothing outside their buffers: the page behind each is forbidden."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Inputs end where a forbidden page starts, edgeconv's own buffers a little before (their slack and
# alignment); a wrong access kills the process, so it is another one.
SCRIPT = """
    import ctypes, mmap, sys
    import numpy as np
    import edgeconv
    from edgeconv import memory
    from edgeconv.runtime import buffers
    from tests.e2e.models import ModelMaker, assert_close, expected

    PAGE, FORBIDDEN = mmap.PAGESIZE, 0
    libc = ctypes.CDLL(None, use_errno=True)
    kept = []

    def guarded(size, alignment):
        pages = -(-max(size, 1) // PAGE)
        region = mmap.mmap(-1, (pages + 1) * PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(region))
        guard = ctypes.c_void_p(address + pages * PAGE)
        assert libc.mprotect(guard, ctypes.c_size_t(PAGE), FORBIDDEN) == 0
        kept.append(region)
        start = pages * PAGE - -(-size // alignment) * alignment
        return np.frombuffer(region, np.uint8, size, start)

    def aligned_bytes(size, *, zero=False):
        return guarded(size + memory.SLACK, memory.ALIGNMENT)[:size]

    memory.aligned_bytes = buffers.aligned_bytes = aligned_bytes
    number = 0
    for target in ("host", "x86-avx2", "x86-sse4"):
        if not edgeconv.api.resolve_target(target).is_native:
            continue
        for model in models():
            compiled = edgeconv.compile(model, target=target, threads=1)
            inputs = compiled.random_inputs()
            feeds = {}
            for name, x in inputs.items():
                feeds[name] = guarded(x.nbytes, x.itemsize).view(x.dtype).reshape(x.shape)
                feeds[name][...] = x
            print(target, number, flush=True)
            assert_close(compiled.run(feeds), expected(model, feeds), 1e-4)
            number += 1
    print("fine")
"""

CONVOLUTIONS = """
    def models():
        for c, k, g, size in (
            (24, 24, 8, 1), (24, 24, 24, 1), (15, 20, 5, 1), (16, 16, 4, 1), (7, 7, 7, 1),
            (17, 19, 1, 1), (24, 24, 8, 5), (20, 20, 20, 5), (15, 20, 5, 5), (12, 36, 3, 5),
            (36, 12, 3, 5), (3, 17, 1, 5), (1, 1, 1, 5), (48, 48, 2, 5),
        ):
            for r in (1, 3):
                if r > size + 2:
                    continue
                maker = ModelMaker()
                x = maker.input("x", 2, c, size, size)
                yield maker.model(maker.node("Relu", maker.conv(x, c, k, r, groups=g)))
        # Strassen's product: in NCHW, and behind a 3x3 in channel blocks
        maker = ModelMaker()
        yield maker.model(maker.conv(maker.input("x", 1, 208, 20, 20), 208, 208, 1))
        maker = ModelMaker()
        x = maker.conv(maker.input("x", 1, 32, 28, 28), 32, 256, 3, stride=2, pads=[1] * 4)
        yield maker.model(maker.conv(x, 256, 256, 1))
        for c, height, width, stride in (
            (20, 9, 7, 1), (33, 6, 21, 2), (16, 5, 40, 1), (5, 3, 3, 1),
        ):
            for dilation in (1, 2):
                maker = ModelMaker()
                x = maker.input("x", 1, c, height, width)
                y = maker.conv(x, c, c, 3, groups=c, stride=stride, dilation=dilation)
                yield maker.model(y)
"""

CHAINS = """
    def models():
        for c, g in ((24, 8), (20, 20), (15, 5), (18, 1)):
            maker = ModelMaker()
            x = maker.input("x", 1, c, 6, 7)
            y = maker.conv(maker.conv(x, c, c, 1), c, c, 3, groups=g)
            z = maker.node("MaxPool", y, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
            a = maker.node("Add", maker.conv(z, c, c, 1, groups=g), z)
            b = maker.node("Concat", a, maker.node("Sigmoid", a), axis=1)
            p = maker.node("GlobalAveragePool", b)
            gate = maker.node("Sigmoid", maker.conv(p, 2 * c, 2 * c, 1, groups=g))
            s = maker.node("Mul", b, gate)
            t = maker.node("Transpose", s, perm=(0, 2, 3, 1))
            yield maker.model(s, maker.node("Softmax", t, axis=3), maker.node("Flatten", z))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect as Linux has it")
@pytest.mark.parametrize("models", [CONVOLUTIONS, CHAINS], ids=["convolutions", "chains"])
def test_nothing_outside_the_buffers(models: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(models) + textwrap.dedent(SCRIPT)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.stdout.endswith("fine\n"), (
        done.returncode,
        done.stdout[-200:],
        done.stderr[-2000:],
    )
