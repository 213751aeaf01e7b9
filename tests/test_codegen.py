"""The generated `main`: runs the steps asked for, in order, on the operands' addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import te

from edgeconv import codegen, targets
from edgeconv.codegen import Operand, Step
from edgeconv.graph.ir import Value
from edgeconv.runtime.buffers import aligned


def kernel(factor: float, term: float) -> Any:
    """out = in · factor + term, of four numbers."""
    x = te.placeholder((4,), "float32", name="x")
    y = te.compute((4,), lambda i: x[i] * te.const(factor) + te.const(term), name="y")
    return te.create_prim_func([x, y])


def build() -> Any:
    """input → double → workspace → plus one → output; the constants → double → output."""
    functions = {
        name: codegen.with_pointer_parameters(kernel(factor, term), name)
        for name, factor, term in (("double", 2.0, 0.0), ("add", 1.0, 1.0))
    }
    steps = [
        Step("double", (Operand("input", 0, 0), Operand("workspace", 0, 64)), "first"),
        Step("add", (Operand("workspace", 0, 64), Operand("output", 0, 0)), "second"),
        Step("double", (Operand("constants", 0, 128), Operand("output", 1, 0)), "third"),
    ]
    x, y, z = (Value(n, (2, 2), "float32") for n in "xyz")
    functions["main"] = codegen.main_function([x], [y, z], 192, 128, steps)
    return codegen.build(functions, targets.load("host").tvm_target(1))["main"]


@pytest.fixture(scope="module")
def main() -> Any:
    return build()


@pytest.fixture
def memory() -> dict[str, np.ndarray]:
    arrays = {n: aligned((2, 2), "float32", zero=True) for n in "xyz"}
    arrays["x"][...] = [[1, 2], [3, 4]]
    constants = aligned((192,), "uint8", zero=True)
    constants[128:144].view(np.float32)[...] = [5, 6, 7, 8]
    return {**arrays, "constants": constants, "workspace": aligned((128,), "uint8", zero=True)}


def run(main: Any, memory: dict[str, np.ndarray], first: int, last: int) -> None:
    main(*(tvm_ffi.from_dlpack(a) for a in memory.values()), first, last)


def test_all_steps(main: Any, memory: dict[str, np.ndarray]) -> None:
    run(main, memory, 0, 1 << 30)
    assert memory["y"].tolist() == [[3, 5], [7, 9]]
    assert memory["z"].tolist() == [[10, 12], [14, 16]]
    assert memory["workspace"][64:80].view(np.float32).tolist() == [2, 4, 6, 8]
    assert not memory["workspace"][:64].any()


def test_some_steps(main: Any, memory: dict[str, np.ndarray]) -> None:
    run(main, memory, 1, 2)
    assert memory["y"].tolist() == [[1, 1], [1, 1]]  # of an empty workspace
    assert not memory["z"].any()
    run(main, memory, 0, 1)
    assert memory["y"].tolist() == [[1, 1], [1, 1]]
    run(main, memory, 1, 3)
    assert memory["y"].tolist() == [[3, 5], [7, 9]]
    assert memory["z"].any()


def test_no_step(main: Any, memory: dict[str, np.ndarray]) -> None:
    run(main, memory, 3, 3)
    run(main, memory, 5, 2)
    assert not memory["y"].any()


def test_a_network_without_steps() -> None:
    main = codegen.main_function([], [], 0, 0, [])
    built = codegen.build({"main": main}, targets.load("host").tvm_target(1))["main"]
    empty = [tvm_ffi.from_dlpack(aligned((1,), "uint8")) for _ in range(2)]
    built(*empty, 0, 1 << 30)


def test_wrong_buffers_are_refused_by_main_itself(main: Any, memory: dict[str, np.ndarray]) -> None:
    memory["x"] = aligned((2, 3), "float32", zero=True)
    with pytest.raises(Exception, match="Mismatched input0"):
        run(main, memory, 0, 3)
