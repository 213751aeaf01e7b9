"""Strassen's product of two matrices, one level deep, in Winograd's form: seven products of halves
in place of eight, and fifteen sums.

    | C11 C12 |   | A11 A12 |   | B11 B12 |
    | C21 C22 | = | A21 A22 | · | B21 B22 |

Source: Strassen, "Gaussian Elimination is not Optimal", 1969; the form is in Higham, "Accuracy and
Stability of Numerical Algorithms", 2002, section 23.1. Here one factor is constant, so its four
sums are made at compile time, and the products are ordered such that most sums behind them are
accumulators which a product is added to: two matrices are kept aside, and read three times.

Rounding: the error of a product of n×n matrices is at most 18·((n/2)² + 3n) − 6n times u·‖A‖·‖B‖,
the norms being the largest elements (Higham, theorem 23.3), where n² holds for the plain product:
4.5 times, and about twice in practice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import FMA_LATENCY, L2_BYTES_PER_CYCLE, parts_of
from edgeconv.schedules.traffic import cold_rate, weights_in_l3
from edgeconv.targets import Device

PRODUCTS = 7
KEPT = 2  # matrices
LEAST_CHANNELS = 16  # of either side; fewer gain nothing
SLOWED = 1.03  # factors come from the second-level cache; fitted on Zen 4, as are the next three
PRODUCT_CYCLES = 10.0  # to begin and end a product's loop
MOVE_CYCLES = 2.3  # of an accumulator, in each product: from memory, to memory, or both
COLD_BYTES_PER_CYCLE = 6  # of weights, within a network
CODE_CYCLES = 15e3  # of fetching a kernel's code, ten times that of a plain one; 10e3 to 50e3
NEAR_BYTES_PER_CYCLE = 64  # of weights in the third-level cache: most of it is hidden
WEIGHTS_STAY = 0.25  # of the second-level cache, beside maps and a panel
PREFETCH = 8192  # bytes of weights ahead; they are cold in the first panel
MOST_TILES = 12  # of a panel
SUBTRACTED = 4  # this product is
FETCHED_BESIDE = {0: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1)}  # quarters, a product or two before

Value = Any  # a NumPy array or an expression


def left(a11: Value, a12: Value, a21: Value, a22: Value) -> tuple[Value, ...]:
    """Left factors of the products, in their order."""
    s1 = bound(a21 + a22)
    s2 = bound(s1 - a11)
    return a11, a12, s2, a11 - a21, a22, s1, a12 - s2


def right(b11: Value, b12: Value, b21: Value, b22: Value) -> tuple[Value, ...]:
    """Right factors of the products, in their order."""
    t1 = bound(b12 - b11)
    t2 = bound(b22 - t1)
    return b11, b21, t2, b22 - b12, t2 - b21, t1, b22


def constant(factors: Sequence[np.ndarray]) -> np.ndarray:
    """The weights' factors along axis 1, that of the product to be subtracted negated."""
    signed = [-factor if e == SUBTRACTED else factor for e, factor in enumerate(factors)]
    return np.stack(signed, axis=1)


def bound(value: Value) -> Value:
    """An expression that is computed once; arrays as they are."""
    return value if isinstance(value, np.ndarray) else T.Bind(value)


def panel_sizes(tiles: int, tile_bytes: int, most_bytes: float) -> list[int]:
    """Numbers of tiles that a panel may have, which cut all into panels of about one size."""
    held = max(1, int(most_bytes / tile_bytes))
    return sorted({parts_of(tiles, most) for most in range(1, min(held, MOST_TILES) + 1)})


def product_cycles(
    depth: int, lanes: int, tile: tuple[int, int], device: Device, quad: int = 1
) -> float:
    """Cycles of the products of a register tile, of `depth` steps each: the longest of FMAs, loads,
    latency and traffic.

    Args:
        lanes: of its vectors; `device` is the one for such vectors.
        tile: vectors that are loaded, and numbers that each is multiplied by.
        quad: such numbers loaded at once.
    """
    vectors, numbers = tile
    loads = device.load_cycles(vectors, numbers / quad)
    from_l2 = vectors * lanes * 4 / L2_BYTES_PER_CYCLE
    step = max(vectors * numbers / device.fma_ports, loads, FMA_LATENCY, from_l2)
    ends = PRODUCT_CYCLES + MOVE_CYCLES * vectors * numbers
    return PRODUCTS * (SLOWED * depth * step + ends)


def cold_cycles(
    weights: float, pixels: float, device: Device, fetching: tuple[int, int] = (1, 1)
) -> float:
    """Cycles by which cold code and weights delay a core in a network, where other layers ran
    since; the plain product's are few, for its tiles fetch the next ones' weights.

    Args:
        pixels: cycles of a pixel tile over all channels, which waits for its weights.
        fetching: pixel tiles of a panel, which fetch the weights of the next channel tile if they
            are several, and the number of channel tiles.
    """
    tiles, parts = fetching
    fresh = weights / min(COLD_BYTES_PER_CYCLE, cold_rate(weights, device))
    waits = max(0.0, fresh - pixels) + (parts - 1) * max(0.0, fresh - tiles * pixels)
    return CODE_CYCLES + waits / parts


def again_cycles(weights: float, device: Device) -> float:
    """Cycles of reading the weights again for a panel, if there is more than them to keep in the
    second-level cache.
    """
    if weights <= device.l2_kib * 1024 * WEIGHTS_STAY:
        return 0.0
    near = weights_in_l3(weights, device)
    return weights / (NEAR_BYTES_PER_CYCLE if near else cold_rate(weights, device))


class Quarters:
    """The register tile of a quarter of the result, and the order in which all four are made.

    Args:
        registers: the accumulators, by any key; arrays of one vector.
        lanes: of the vectors.
    """

    def __init__(self, registers: Mapping[Any, Any], lanes: int) -> None:
        self.registers, self.every, self.lanes = registers, emit.run(0, lanes), lanes
        self.number = {at: k for k, at in enumerate(registers)}
        self.kept = emit.scratch("kept", (KEPT * len(registers) * lanes,))

    def emit(
        self,
        product: Callable[[int], None],
        finish: Callable[[tuple[int, int], Callable[[Any], Any]], None],
    ) -> None:
        """All products.

        Args:
            product: adds product number e to the registers.
            finish: stores quarter (row, column) of the result, its values given by key.
        """
        zero = emit.spread(tirx.const(0.0, "float32"), self.lanes)
        self._start(lambda _: zero)
        product(0)
        self._keep(0)
        product(1)
        finish((0, 0), self.value)
        self._start(lambda at: self._kept(0, at))
        product(2)
        self._keep(0)
        product(3)
        self._keep(1)
        product(4)
        finish((1, 0), self.value)
        self._start(lambda _: zero)
        product(5)
        finish((1, 1), lambda at: self.value(at) + self._kept(1, at))
        self._start(lambda at: self.value(at) + self._kept(0, at))
        product(6)
        finish((0, 1), self.value)

    def value(self, at: Any) -> Any:
        """What an accumulator holds."""
        return self.registers[at][self.every]

    def _start(self, value: Callable[[Any], Any]) -> None:
        for at, register in self.registers.items():
            emit.store(register, value(at), [self.every])

    def _place(self, which: int, at: Any) -> Any:
        return emit.run((which * len(self.registers) + self.number[at]) * self.lanes, self.lanes)

    def _kept(self, which: int, at: Any) -> Any:
        return self.kept[self._place(which, at)]

    def _keep(self, which: int) -> None:
        """Put the accumulators aside. A prefetch counts as a write to what it names: without it,
        LLVM keeps some in registers, too few are left, and a later product spills in every step.
        """
        for at in self.registers:
            emit.store(self.kept, self.value(at), [self._place(which, at)])
        with emit.only_prefetching():
            emit.prefetch(self.kept[0], 0, level=1)
