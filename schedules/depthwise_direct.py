"""Depthwise convolution along rows that lie where they are: no copy, no halo.

A tile whose taps all lie inside the map loads its vectors and nothing else. At the border rows
beyond the map are left out, and a vector that crosses the border, or takes every second column, is
shuffled from one or two loads, with zeros for the padding. No load leaves the row. Tiles at the
border are emitted one by one, the others share a loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import CACHE_LINE, ceil_div, starts

if TYPE_CHECKING:
    from edgeconv.schedules.depthwise_rows import Kernel


@dataclass(frozen=True)
class Run:
    """Tiles that share their code: `count` of them, the first at `start`, each `size` further."""

    start: int
    count: int
    inside: bool


def runs(extent: int, size: int, is_inside: Callable[[int], bool]) -> list[Run]:
    """The tiles over `extent`, those that touch no border gathered into loops."""
    found: list[Run] = []
    for start in starts(extent, size):
        last = found[-1] if found else None
        if is_inside(start) and last and last.inside and start == last.start + last.count * size:
            found[-1] = Run(last.start, last.count + 1, True)
        else:
            found.append(Run(start, 1, is_inside(start)))
    return found


class Direct:
    """One channel without scratch: tiles at the border leave out what lies beyond it."""

    def __init__(self, kernel: Kernel, n: Any, channel: Any) -> None:
        self.kernel, self.n, self.channel = kernel, n, channel
        self.conv, self.space, self.knobs = kernel.conv, kernel.space, kernel.knobs
        conv, halo = kernel.conv, kernel.task.data.halo
        self.halo = halo
        self.first_row, self.end_row = -halo[0], conv.height + halo[2]
        self.first_column, self.end_column = -halo[1], conv.width + halo[3]
        self.lanes = kernel.lanes
        self.load = kernel.lanes  # lanes of a load: no more than a row has
        while self.load > self.end_column - self.first_column:
            self.load //= 2

    def emit(self) -> None:
        """All register tiles."""
        conv, space, knobs = self.conv, self.space, self.knobs
        self.prepare()
        reach = (knobs.rows - 1) * space.sy + space.row_reach
        rows = runs(
            conv.out_height,
            knobs.rows,
            lambda y: (
                self.first_row <= y * space.sy - conv.padding[0]
                and y * space.sy - conv.padding[0] + reach < self.end_row
            ),
        )
        columns = runs(space.vectors, knobs.columns, self._is_inside)
        for row in rows:
            with ExitStack() as loops:
                y = self._position(loops, row, knobs.rows)
                for column in columns:
                    with ExitStack() as inner:
                        vector = self._position(inner, column, knobs.columns)
                        self._tile(y, row.inside, vector, column.inside)

    def prepare(self) -> None:
        """Load what all tiles use: the bias and the weights."""
        kernel = self.kernel
        start = tirx.const(0.0, "float32") if kernel.bias is None else kernel.bias[self.channel]
        self.start = T.Bind(tirx.Broadcast(start, self.lanes))
        self.weights = [kernel.weights(self.channel, kw) for kw in range(self.space.taps[1])]

    def uses(self) -> dict[int, dict[int, list[tuple[int, Any]]]]:
        """For every input row of a tile, and column of the filter: (output row, weight)."""
        columns = range(self.space.taps[1])
        return {
            r: {kw: [(i, self.weights[kw][kh]) for i, kh in uses] for kw in columns}
            for r, uses in self.space.uses().items()
        }

    def finish(self, row: Any, column: Any, vector: Any, at: tuple[int, int]) -> None:
        """Store the result of an accumulator."""
        value = self.kernel.acc[(*at, self.kernel.every)]
        self.kernel.finish(value, self.n, self.channel, row, column)

    @staticmethod
    def _position(loops: ExitStack, run: Run, size: int) -> Any:
        if run.count == 1:
            return run.start
        return run.start + loops.enter_context(T.serial(0, run.count)) * size

    def _is_inside(self, vector: int) -> bool:
        """Whether all that a tile of vectors reads lies in the row, and no vector overlaps."""
        space, lanes = self.space, self.lanes
        first = vector * lanes * space.sx - self.conv.padding[1]
        first -= first % space.sx
        end = (vector + self.knobs.columns) * lanes
        last = end * space.sx - self.conv.padding[1] + (space.taps[1] - 1) * space.dx
        return end <= self.conv.out_width and first >= self.first_column and last <= self.end_column

    def _tile(self, y: Any, rows_inside: bool, vector: Any, columns_inside: bool) -> None:
        space, knobs, conv = self.space, self.knobs, self.conv
        acc, every = self.kernel.acc, self.kernel.every
        if columns_inside:
            columns = [(vector + j) * self.lanes for j in range(knobs.columns)]
        else:
            columns = [space.column(vector + j) for j in range(knobs.columns)]
        if knobs.ahead:
            self._fetch(y + knobs.rows, columns[0])
        for i in range(knobs.rows):
            for j in range(knobs.columns):
                emit.store(acc, self.start, [i, j, every])
        for r, uses in self.uses().items():
            row = y * space.sy + r - conv.padding[0]
            if not rows_inside and not self.first_row <= row < self.end_row:
                continue
            group = self.channel // space.multiplier
            self.row = (self.n, group, row + self.halo[0])
            self.loaded: dict[Any, Any] = {}
            for kw, products in uses.items():
                for j, column in enumerate(columns):
                    x = self._inside(column, kw) if columns_inside else self._clipped(column, kw)
                    if x is None:
                        continue
                    x = T.Bind(x)
                    for i, weight in products:
                        emit.store(acc, acc[i, j, every] + x * weight, [i, j, every])
        for i in range(knobs.rows):
            for j, column in enumerate(columns):
                self.finish(y + i, column, vector + j, (i, j))

    def _fetch(self, y: Any, column: Any) -> None:
        """Ask for the rows that only the tile at output row `y` reads, and for those it writes; in
        the last row of tiles for some of the next plane.
        """
        kernel, space, knobs = self.kernel, self.space, self.knobs
        fresh = y * space.sy - self.conv.padding[0] + space.row_reach - space.sy + 1
        at = (fresh + self.halo[0], column * space.sx + self.halo[1])
        group = self.channel // space.multiplier
        with emit.only_prefetching():
            for array, channel, (row, first), sy, sx in (
                (kernel.data, group, at, space.sy, space.sx),
                (kernel.out, self.channel, (y, column), 1, 1),
            ):
                lines = ceil_div(knobs.columns * self.lanes * sx * 4, CACHE_LINE)
                for i, line in itertools.product(range(knobs.rows * sy), range(lines)):
                    emit.prefetch_line(array[self.n, channel, row + i, first], line)

    def _load(self, key: Any, start: Any) -> Any:
        """The vector of a row from a column on; each is loaded once a tile and row."""
        if key not in self.loaded:
            lanes = self.load
            at = self.kernel.ramp(start + self.halo[1], lanes)
            self.loaded[key] = T.Bind(self.kernel.data[(*self.row, at)])
        return self.loaded[key]

    def _inside(self, column: Any, kw: int) -> Any:
        """What tap kw reads for the output columns of a tile inside the row."""
        space, lanes = self.space, self.lanes
        first = kw * space.dx - self.conv.padding[1]
        if space.sx == 1:
            return self._load((column, first), column + first)
        start, odd = first - first % 2, first % 2
        low, high = (self._load((column, start + k), column * 2 + start + k) for k in (0, lanes))
        return tirx.Shuffle([low, high], list(range(odd, 2 * lanes, 2)))

    def _clipped(self, column: int, kw: int) -> Any | None:
        """The same where taps may lie beyond the row: they read zero. None if all of them do."""
        space, lanes, load = self.space, self.lanes, self.load
        low, high = self.first_column, self.end_column
        first = column * space.sx + kw * space.dx - self.conv.padding[1]
        used = min(lanes, self.conv.out_width - column)
        wanted = [first + i * space.sx for i in range(used)]
        valid = [c for c in wanted if low <= c < high]
        if not valid:
            return None
        if space.sx == 1 and len(valid) == used and first + lanes <= high and load == lanes:
            return self._load(first, first)
        a = min(max(valid[0] - (valid[0] % space.sx), low), high - load)
        b = min(a + load, high - load)
        single = valid[-1] < a + load
        zero = tirx.Broadcast(tirx.const(0.0, "float32"), load)
        sources = [self._load(a, a), zero if single else self._load(b, b)]
        sources += [zero] * (lanes // load - 2)  # a shuffle makes no more lanes than it has
        index, blend = [], []
        for i in range(lanes):
            c = wanted[min(i, used - 1)]
            if not low <= c < high:
                index.append(load if single else 0)
                blend.append(lanes)
            else:
                index.append(c - a if c < a + load else load + c - b)
                blend.append(i)
        shuffled = tirx.Shuffle(sources, index)
        if single or lanes not in blend:
            return shuffled
        zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
        return tirx.Shuffle([T.Bind(shuffled), zero], blend)
