"""The families of two convolutions in one kernel: one file each, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv.schedules import depthwise_pointwise, pointwise_depthwise
from edgeconv.schedules.common import Mismatch
from edgeconv.schedules.product_tile import Tile
from edgeconv.targets import Device
from edgeconv.workload import PairTask

Arrays = Sequence[np.ndarray]
Biases = Sequence[np.ndarray | None]
_T = TypeVar("_T")
DepthwiseTile = tuple[int, int, bool]
TILES, DEPTHWISE_TILES = 32, 8  # of each convolution, among what is worth measuring


@dataclass(frozen=True)
class PairFamily:
    """One row: a name and the functions of its module; see `Family`.

    `pack` returns all constants in the order of the kernel's parameters.
    """

    name: str
    title: str
    knobs: type[Any]  # the dataclass of its settings; a tile of each convolution comes first
    supports: Callable[[PairTask, Device], Mismatch | None]
    tile_pairs: Callable[[PairTask, Device], tuple[list[Tile], list[DepthwiseTile]]]
    strips: Callable[[PairTask, Device, Tile, DepthwiseTile], Iterator[Any]]
    default_knobs: Callable[[PairTask, Device], Any]
    estimate: Callable[[PairTask, Any, Device], float]
    pack: Callable[[PairTask, Any, Arrays, Biases], list[np.ndarray]]
    compute: Callable[[PairTask, Any], tirx.PrimFunc]
    schedule: Callable[[Schedule, PairTask, Any, Device], Schedule]

    @property
    def exact(self) -> bool:
        """All sum the products of the definition, in some order."""
        return True

    def build(self, task: PairTask, knobs: Any, device: Device) -> tirx.PrimFunc:
        """The scheduled kernel `(data, weight, [bias], weight, [bias], [residual], out)`."""
        sch = Schedule(self.compute(task, knobs))
        return self.schedule(sch, task, knobs, device).mod["main"]

    def candidates(self, task: PairTask, device: Device) -> Iterator[Any]:
        """Every legal setting: the `strips` of any two `tile_pairs`, too many to look through for
        each task.
        """
        tiles, others = self.tile_pairs(task, device)
        for tile in tiles:
            for other in others:
                yield from self.strips(task, device, tile, other)

    def has(self, task: PairTask, knobs: Any, device: Device) -> bool:
        """Whether these are among the candidates."""
        tile, other = _tiles_of(knobs)
        tiles, others = self.tile_pairs(task, device)
        if tile not in tiles or other not in others:
            return False
        return knobs in set(self.strips(task, device, tile, other))

    def promising(self, task: PairTask, device: Device) -> list[Any]:
        """What is worth measuring: the tiles that are best by estimate beside the default's other
        tile, in all combinations.
        """
        tile, other = _tiles_of(self.default_knobs(task, device))
        tiles, others = self.tile_pairs(task, device)

        def least(one: Tile, two: DepthwiseTile) -> float:
            settings = self.strips(task, device, one, two)
            return min((self.estimate(task, k, device) for k in settings), default=float("inf"))

        tiles = _first(tiles, TILES, [least(t, other) for t in tiles])
        others = _first(others, DEPTHWISE_TILES, [least(tile, o) for o in others])
        return [k for t in tiles for o in others for k in self.strips(task, device, t, o)]


def _tiles_of(knobs: Any) -> tuple[Tile, DepthwiseTile]:
    tile = knobs.tile
    start = len(astuple(tile))
    rows, columns, unroll_kw = astuple(knobs)[start : start + 3]
    return tile, (rows, columns, unroll_kw)


def _first(values: Sequence[_T], count: int, costs: Iterable[float]) -> list[_T]:
    """Those of the least cost, in order."""
    ranked = sorted(zip(costs, range(len(values)), strict=True))
    return [values[i] for _, i in ranked[:count]]


def _family(name: str, title: str, module: Any) -> PairFamily:
    own = ("name", "title", "knobs")
    functions = {f: getattr(module, f) for f in PairFamily.__dataclass_fields__ if f not in own}
    return PairFamily(name, title, module.Knobs, **functions)


PAIRS: tuple[PairFamily, ...] = (
    _family("pointwise_depthwise", "Pointwise, then depthwise, by strips", pointwise_depthwise),
    _family("depthwise_pointwise", "Depthwise, then pointwise, by strips", depthwise_pointwise),
)


def pair_family(name: str) -> PairFamily:
    """The family called `name`; KeyError if there is none."""
    found = {f.name: f for f in PAIRS}
    return found[name]
