"""Which taps of a kernel read only padding in a tile of outputs, so that they can be skipped.

On maps not much larger than the kernel's reach that is a good part of them: 2 of 21 rows of a 3×3
kernel on a map of 7 rows, and as many of its columns.

A row or column of the kernel is skipped where it lies in the padding for all of a tile, by a branch
outside the channel loop. Single outputs skip a column at compile time in a tile as wide as the map,
and in narrower ones that are peeled: those at the left and right border have code of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from edgeconv.borders import Columns, column_kinds, meets, share_of_kinds
from edgeconv.schedules.common import starts
from edgeconv.targets import Device
from edgeconv.workload import Conv2d

WORTH_A_BRANCH = 0.02  # share of the multiply-adds
WORTH_A_BRANCH_A_ROW = 0.06
WORTH_PEELING = 0.04
PEELED = 1.03  # times as long, for what is left; measured on Zen 4


@functools.cache
def _met(conv: Conv2d, axis: int, count: int) -> float:
    """Share of the rows (axis 0) or columns (1) of the kernel, over all tiles of `count` outputs,
    that meet the image.
    """
    outputs = (conv.out_height, conv.out_width)[axis]
    firsts, taps = starts(outputs, count), range(conv.kernel_size[axis])
    inside = sum(all(meets(conv, axis, count, first, tap)) for first in firsts for tap in taps)
    return inside / (len(firsts) * len(taps))


@functools.cache
def _branch(conv: Conv2d, axis: int, count: int) -> float:
    """As `_met`, but 1 where so little is skipped that a branch isn't worth it."""
    share = _met(conv, axis, count)
    return share if share < 1 - WORTH_A_BRANCH else 1.0


def rows_met(conv: Conv2d, rows: int) -> float:
    """Share of the kernel's rows, over all tiles of `rows` rows, that aren't skipped."""
    return _branch(conv, 0, rows)


def columns_met(conv: Conv2d, columns: int, unrolled: bool, *, peeled: bool = False) -> float:
    """Share of the (column, kw) pairs, over all tiles of `columns` columns, that aren't skipped, if
    the kernel's columns are unrolled or not, and tiles at the border have code of their own or not.
    """
    if peeled:
        return share_of_kinds(conv, columns)
    if columns < conv.out_width:
        return _branch(conv, 1, columns)
    return _met(conv, 1, 1) if unrolled else 1.0


def row_inside(
    conv: Conv2d, rows: int, first: Any, kh: Any, *, exactly: bool = False
) -> Any | None:
    """Whether row `kh` of the kernel meets the image anywhere in the tile of `rows` rows at row
    `first`; None if every row does in every tile, or, but for `exactly`, nearly every one.
    """
    share = (_met if exactly else _branch)(conv, 0, rows)
    return None if share == 1 else tirx.all(*meets(conv, 0, rows, first, kh))


def column_inside(conv: Conv2d, columns: int, first: Any, kw: Any) -> Any | None:
    """As `row_inside`, for column `kw` of the kernel; None too where a tile is as wide as the
    map.
    """
    if columns == conv.out_width or _branch(conv, 1, columns) == 1:
        return None
    return tirx.all(*meets(conv, 1, columns, first, kw))


def peelings(conv: Conv2d, columns: int, device: Device) -> tuple[bool, ...]:
    """Whether tiles of `columns` columns are peeled: never, or either way, if code of its own for
    each kind of them leaves out enough.
    """
    if columns == conv.out_width or not device.memory_operands:
        return (False,)
    whole, peeled = (columns_met(conv, columns, True, peeled=p) for p in (False, True))
    return (False, True) if peeled < whole * (1 - WORTH_PEELING) else (False,)


def by_kind(conv: Conv2d, columns: int, number: Any, add: Callable[[Columns], None]) -> None:
    """`add` what a tile of `columns` columns, the `number`th in its row, reads: in code of its own
    for each of the `column_kinds`.
    """

    def one_of(kinds: Sequence[tuple[tuple[int, ...], Columns]]) -> None:
        (numbers, read), *others = kinds
        if not others:
            add(read)
            return
        with T.If(tirx.any(*[number == n for n in numbers])):
            with T.Then():
                add(read)
            with T.Else():
                one_of(others)

    one_of(column_kinds(conv, columns))


def columns_inside(conv: Conv2d, columns: int, kw: int) -> tuple[int, ...]:
    """The columns of a tile for which column `kw` of the kernel may meet the image."""
    if columns < conv.out_width:
        return tuple(range(columns))
    return tuple(j for j in range(columns) if all(meets(conv, 1, 1, j, kw)))


def input_rows_met(conv: Conv2d, *, whole: bool) -> float:
    """Share of the multiply-adds that is left when `input_row_inside` skips rows of the input."""
    share = _met(conv, 0, 1)
    return share if whole or share < 1 - WORTH_A_BRANCH_A_ROW else 1.0


def input_row_inside(conv: Conv2d, y: Any, *, whole: bool) -> Any | None:
    """Whether input row `y` exists, so that the taps that read it count: a number if `whole` (the
    map is one tile, `y` an int), an expression, or None where too few don't for a branch.
    """
    if whole:
        return None if 0 <= y < conv.height else False
    if input_rows_met(conv, whole=False) == 1:
        return None
    return tirx.all(y >= 0, y < conv.height)
