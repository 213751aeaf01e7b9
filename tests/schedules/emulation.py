"""Runs kernels for another architecture under QEMU's user-mode emulation, one process a call."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv import codegen
from edgeconv.linking import object_code
from edgeconv.targets import Device
from tests.schedules.kernels import Kernels

# The harness: kernels as TVM exports them, the few functions of TVM's runtime they call, and a main
# that reads constants and workspace, runs one kernel and writes the workspace back.
HARNESS = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct { int32_t type; uint32_t padding; union { void *pointer; int64_t bits; }; } Any;
enum { OPAQUE_POINTER = 4 };

static void *allocate(int kind, int id, uint64_t size, int code, int bits) {
  return aligned_alloc(64, (size + 63) / 64 * 64);
}
static int release(int kind, int id, void *memory) { free(memory); return 0; }
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {
  for (int i = 0; i < count; i++) fputs(parts[i], stderr);
  exit(2);
}

%(declarations)s

static char *space(const char *path, long size) {
  char *memory = aligned_alloc(64, (size + 127) / 64 * 64);
  FILE *file = fopen(path, "rb");
  if (!memory || !file || fread(memory, 1, size, file) != size) exit(3);
  fclose(file);
  return memory;
}

int main(int argc, char **argv) {
  long size = atol(argv[4]);
  char *constants = space(argv[2], atol(argv[3])), *workspace = space(argv[5], size);
  Any arguments[8], result = {0};
  int status = 4;
  switch (atoi(argv[1])) {
%(cases)s
  }
  FILE *file = fopen(argv[5], "wb");
  if (!file || fwrite(workspace, 1, size, file) != size || fclose(file)) exit(5);
  return status;
}
"""

_COMPILERS = {"aarch64": "aarch64-linux-gnu-gcc", "armv7l": "arm-linux-gnueabihf-gcc"}
_EMULATORS = {
    "aarch64": ("qemu-aarch64", "qemu-aarch64-static"),
    "armv7l": ("qemu-arm", "qemu-arm-static"),
}
_ZIG_TARGETS = {"aarch64": "aarch64-linux-musl", "armv7l": "arm-linux-musleabihf"}


def emulator(arch: str) -> tuple[list[str], str] | None:
    """(compiler, emulator) for the architecture; None unless both are installed.

    Where there is no GCC for it, zig compiles (the extra `cross`).
    """
    found = [path for name in _EMULATORS.get(arch, ()) if (path := shutil.which(name))]
    compiler = shutil.which(_COMPILERS.get(arch, ""))
    if found and compiler:
        return [compiler], found[0]
    if found and importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", _ZIG_TARGETS[arch]], found[0]
    return None


class EmulatedKernels(Kernels):
    """`Kernels` of a foreign device; needs `emulator`."""

    def __init__(self, target: Device, folder: Path) -> None:
        super().__init__(target)
        self.folder = folder

    def main(self) -> Callable[..., None]:
        """As `Kernels.main`, with a process for each step."""
        tools = emulator(self.device.arch)
        assert tools is not None
        compiler, qemu = tools
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        module = codegen.build(self.functions, self.device.tvm_target(1))
        (folder / "kernels.o").write_bytes(object_code(module))
        (folder / "main.c").write_text(self._harness(), encoding="utf-8")
        command = [*compiler, "-static", "-O1", "-w", "-o", "run", "main.c", "kernels.o"]
        subprocess.run(command, cwd=folder, check=True)

        def run(constants: Any, workspace: Any, first: int, last: int) -> None:
            read, memory = np.from_dlpack(constants), np.from_dlpack(workspace)
            if not (folder / "constants").exists():
                read.tofile(folder / "constants")
            for number in range(first, last):
                memory.tofile(folder / "workspace")
                sizes = ["constants", str(read.size), str(memory.size), "workspace"]
                subprocess.run([qemu, "./run", str(number), *sizes], cwd=folder, check=True)
                memory[:] = np.fromfile(folder / "workspace", np.uint8)

        return run

    def _harness(self) -> str:
        declarations, cases = [], []
        for number, step in enumerate(self.steps):
            name = f"__tvm_ffi_{step.kernel}"
            declarations.append(f"int {name}(void *, Any *, int, Any *);")
            cases.append(f"  case {number}:")
            for i, operand in enumerate(step.operands):
                value = f"(Any){{OPAQUE_POINTER, 0, {operand.space} + {operand.offset}}}"
                cases.append(f"    arguments[{i}] = {value};")
            count = len(step.operands)
            cases.append(f"    status = {name}(0, arguments, {count}, &result); break;")
        return HARNESS % {"declarations": "\n".join(declarations), "cases": "\n".join(cases)}
