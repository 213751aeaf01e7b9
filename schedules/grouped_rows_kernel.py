"""The statements of grouped_rows: fill the scratch planes, multiply, store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx import Broadcast, Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.operators.convolution import apply_activation, shuffled
from edgeconv.schedules import emit
from edgeconv.schedules.common import ceil_div, minimum, narrowed, starts, tile_start
from edgeconv.schedules.depthwise_rows import planes
from edgeconv.schedules.prefetching import share_of_run
from edgeconv.workload import ConvTask

if TYPE_CHECKING:
    from edgeconv.schedules.grouped_rows import Knobs, Space

MOST_PIECES = 8  # of a row in straight code; beyond it vectors are copied in a loop


class Kernel:
    """Emits the kernel of a task under given knobs."""

    def __init__(self, task: ConvTask, knobs: Knobs, space: Space) -> None:
        self.task, self.knobs, self.space, self.conv = task, knobs, space, task.conv
        self.lanes, self.every = knobs.lanes, Ramp(0, 1, knobs.lanes)
        self.zero = Broadcast(tirx.const(0.0, "float32"), knobs.lanes)

    def emit(self) -> None:
        """Parameters and the loop over strips."""
        conv, space, knobs = self.conv, self.space, self.knobs
        self._parameters()
        grid = dict(n=conv.batch, g=conv.groups, strip=space.strips)
        with emit.loops(**grid) as axes, emit.block("tile"):
            self.n, self.group, self.strip = emit.all_spatial(grid, axes)
            self.first = tile_start(self.strip, space.strip, conv.out_height)
            vectors = max(knobs.rows * knobs.columns, len(space.tail))
            self.acc = emit.local("acc", (knobs.channels, vectors, self.lanes))
            if knobs.flat:
                self.sums = emit.scratch("sums", (knobs.channels * space.sums,))
            if knobs.scratch:
                count = space.cpg * space.py * space.px
                self.scratch = emit.scratch("planes", (count * space.plane,))
                self._fill()
            with T.serial(0, space.channel_tiles) as tile:
                self._channels(tile)

    def _parameters(self) -> None:
        conv, space, task = self.conv, self.space, self.task
        top, left, bottom, right = task.data.halo
        in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
        if self.knobs.scratch:
            self.data = planes("data", in_shape, task.data, halo=False)
        else:
            pixels = (top + conv.height + bottom) * (left + conv.width + right)
            shape = (conv.batch, conv.in_channels, pixels)
            buffer = tirx.decl_buffer(shape, "float32", name="data", data_alignment=4)
            self.data = T.arg("data", buffer)
        tiles = (conv.groups, space.channel_tiles)
        self.weight = emit.buffer("weight", (*tiles, space.cpg, *space.taps, self.knobs.channels))
        self.bias = emit.buffer("bias", (conv.out_channels,)) if task.bias else None
        self.residual = (
            None
            if task.residual is None
            else planes("residual", conv.output_shape, task.residual, halo=False)
        )
        self.out = planes("out", conv.output_shape, task.out, halo=False)

    def _in_channel(self, channel: Any) -> Any:
        """The plane of the data that holds a channel of the group."""
        conv = self.conv
        at = self.group * self.space.cpg + channel
        return shuffled(at, conv.in_channels, conv.input_shuffle)

    # scratch planes

    def _fill(self) -> None:
        """Copy the group's input rows of the strip, zeros between and around them."""
        conv, space = self.conv, self.space
        with T.serial(0, space.cpg) as channel:
            base = channel * (space.py * space.px * space.plane)
            for number in range(space.py * space.px):
                low, _ = space.span(number % space.px)
                self._clear(base + number * space.plane, low)
            with T.serial(0, space.strip_rows) as r:
                y = T.Bind(self.first * conv.stride[0] + r - conv.padding[0])
                at = T.Bind(
                    base + r % space.py * (space.px * space.plane) + r // space.py * space.pitch
                )
                with T.If(tirx.all(y >= 0, y < conv.height)):
                    with T.Then():
                        self._copy((self.n, self._in_channel(channel), y), at)
                    with T.Else():
                        for phase in range(space.px):
                            low, high = space.span(phase)
                            self._clear(at + phase * space.plane + low, high - low)
                for phase in range(space.px):
                    low, high = space.span(phase)
                    gap = space.pitch + low - high
                    self._clear(at + phase * space.plane + high, gap)

    def _clear(self, start: Any, count: int) -> None:
        """Zeros for at least `count` elements; what lies behind is written later."""
        if count <= self.lanes * MOST_PIECES:
            for x in range(0, count, self.lanes):
                emit.store(self.scratch, self.zero, [Ramp(start + x, 1, self.lanes)])
            return
        with T.serial(0, ceil_div(count, self.lanes)) as z:
            emit.store(self.scratch, self.zero, [Ramp(start + z * self.lanes, 1, self.lanes)])

    def _copy(self, row: tuple[Any, Any, Any], at: Any) -> None:
        """One input row, into the planes of its columns' phases."""
        space, width = self.space, self.conv.width
        if space.px == 1:
            low, _ = space.span(0)

            def move(x: Any, lanes: int) -> None:
                value = self.data[(*row, emit.run(x, lanes))]
                emit.store(self.scratch, value, [emit.run(at + low + x, lanes)])

            self._pieces(width, move)
            return

        def part(x: Any, lanes: int) -> None:
            if lanes == 1:
                self._put(at, 0, x, self.data[(*row, x)], 1)
                return
            half = lanes // 2
            halves = [T.Bind(self.data[(*row, emit.run(x + k, half))]) for k in (0, half)]
            for odd in (0, 1):
                if half == 1:
                    self._put(at, odd, x, halves[odd], 1)
                else:
                    picked = tirx.Shuffle(halves, list(range(odd, lanes, 2)))
                    self._put(at, odd, x, picked, half)

        self._pieces(width, part, 2)

    def _put(self, at: Any, odd: int, x: Any, value: Any, lanes: int) -> None:
        """Store every second column from x + odd on; x is even, or a number."""
        space, padded = self.space, self.conv.padding[1] + odd
        if isinstance(x, int):
            padded, x = padded + x, 0
        start = at + padded % 2 * space.plane + space.origin + padded // 2 + x // 2
        emit.store(self.scratch, value, [emit.run(start, lanes)])

    def _pieces(self, width: int, move: Callable[[Any, int], None], times: int = 1) -> None:
        """Call `move(start, lanes)` for vectors (of `times` the width) that cover a row; the last
        overlaps its neighbour.
        """
        lanes = narrowed(self.lanes * times, width)
        pieces = starts(width, lanes)
        if len(pieces) > MOST_PIECES:
            whole = width // lanes
            with T.serial(0, whole) as piece:
                move(piece * lanes, lanes)
            pieces = pieces[whole:]
        for x in pieces:
            move(x, lanes)

    # sums of products

    def _channels(self, tile: Any) -> None:
        """All pixels of the strip, for one tile of output channels."""
        space, knobs = self.space, self.knobs
        channel = T.Bind(self.group * space.kpg + space.channel(tile))
        offsets = space.offsets()
        if not knobs.flat:
            with T.serial(0, space.row_tiles) as t, T.serial(0, space.column_tiles) as q:
                y = tile_start(t, knobs.rows, space.strip)
                x = 0
                if space.column_tiles > 1:
                    x = tile_start(q, knobs.columns * self.lanes, self.conv.out_width)
                step = space.row_step * space.pitch
                places = [i * step + j for i, j in offsets]
                self._fetch(tile, channel, t * space.column_tiles + q)
                self._multiply(tile, channel, T.Bind(y * step + x), places)
                for m in range(knobs.channels):
                    for v, (i, j) in enumerate(offsets):
                        at = (channel + m, self.first + y + i, x + j)
                        self._store(self.acc[m, v, self.every], at, self.lanes)
            return
        if space.full_tiles:
            with T.serial(0, space.full_tiles) as t:
                start = t * (knobs.columns * self.lanes)
                self._fetch(tile, channel, t)
                self._sum(tile, channel, start, [j for _, j in offsets])
        if space.tail:
            self._sum(tile, channel, 0, space.tail)
        with T.serial(0, knobs.channels) as m, T.serial(0, space.strip) as y:

            def finish(x: Any, lanes: int) -> None:
                value = self.sums[emit.run(m * space.sums + y * space.pitch + x, lanes)]
                self._store(value, (channel + m, self.first + y, x), lanes)

            self._pieces(self.conv.out_width, finish)

    def _fetch(self, tile: Any, channel: Any, t: Any) -> None:
        """With pixel tile `t` of a tile of channels, ask for a share of the rows that the next
        strip reads for the first time, and of those that this tile of channels writes.
        """
        space, conv, knobs = self.space, self.conv, self.knobs
        if not knobs.ahead:
            return
        with emit.only_prefetching():
            group, row = self._following()
            rows = space.strip_rows if space.strips == 1 else space.strip * conv.stride[0]
            step = (tile * space.full_tiles + t, space.channel_tiles * space.full_tiles)
            for byte in share_of_run(step, rows * _pitch(conv.width, self.task.data)):
                with T.serial(0, space.cpg) as c:
                    at = shuffled(group * space.cpg + c, conv.in_channels, conv.input_shuffle)
                    first = (row, 0) if knobs.scratch else (row * space.pitch,)
                    emit.prefetch(self.data[(self.n, at, *first)], byte)
            size = space.strip * _pitch(conv.out_width, self.task.out)
            for byte in share_of_run((t, space.full_tiles), size):
                with T.serial(0, knobs.channels) as m:
                    emit.prefetch(self.out[self.n, channel + m, self.first, 0], byte)

    def _following(self) -> tuple[Any, Any]:
        """Group of the core's next strip, and the first row that it reads for the first time."""
        space, conv, own = self.space, self.conv, self.knobs.ahead
        top = (0 if self.knobs.scratch else self.task.data.halo[0]) - conv.padding[0]
        group = tirx.min(self.group + 1, conv.groups - 1)
        fresh = self.first * conv.stride[0] + top + space.strip_rows
        back = minimum(self.strip // own * own * space.strip, conv.out_height - space.strip)
        again = tirx.max(back * conv.stride[0] + top, 0)
        ends = tirx.any(self.strip % own == own - 1, self.strip == space.strips - 1)
        return tirx.Select(ends, group, self.group), tirx.Select(ends, again, fresh)

    def _sum(self, tile: Any, channel: Any, start: Any, places: list[int]) -> None:
        """The products of a flat tile, into scratch."""
        self._multiply(tile, channel, start, places)
        for m in range(self.knobs.channels):
            for v, x in enumerate(places):
                at = m * self.space.sums + start + x
                emit.store(self.sums, self.acc[m, v, self.every], [Ramp(at, 1, self.lanes)])

    def _multiply(self, tile: Any, channel: Any, start: Any, places: list[int]) -> None:
        """acc = bias + products, for the vectors at `start` + each of `places` in the planes."""
        space, acc, every = self.space, self.acc, self.every
        channels = range(self.knobs.channels)
        for m in channels:
            bias = tirx.const(0.0, "float32") if self.bias is None else self.bias[channel + m]
            bias = T.Bind(Broadcast(bias, self.lanes))
            for v in range(len(places)):
                emit.store(acc, bias, [m, v, every])
        with T.serial(0, space.cpg) as c, T.serial(0, space.taps[0]) as kh:
            for kw in range(space.taps[1]):

                def weight(m: int, kw: int = kw) -> Any:
                    value = self.weight[self.group, tile, c, kh, kw, m]
                    return T.Bind(Broadcast(value, self.lanes))

                def pixels(v: int, kw: int = kw) -> Any:
                    return T.Bind(self._pixels(c, kh, kw, start, places[v]))

                def add(m: int, v: int, x: Any, w: Any) -> None:
                    emit.store(acc, acc[m, v, every] + x * w, [m, v, every])

                if len(places) <= len(channels):  # the fewer wait in registers
                    held = [pixels(v) for v in range(len(places))]
                    for m in channels:
                        w = weight(m)
                        for v, x in enumerate(held):
                            add(m, v, x, w)
                else:
                    held = [weight(m) for m in channels]
                    for v in range(len(places)):
                        x = pixels(v)
                        for m, w in enumerate(held):
                            add(m, v, x, w)

    def _pixels(self, c: Any, kh: Any, kw: int, start: Any, place: int) -> Any:
        """The vector that a tap of channel `c` reads for the outputs at `start` + `place`."""
        space, conv = self.space, self.conv
        number, distance = space.tap(kh, kw)
        at = distance + start + place
        if self.knobs.scratch:
            plane = (c * (space.py * space.px) + number) * space.plane
            return self.scratch[Ramp(plane + at, 1, self.lanes)]
        halo = self.task.data.halo
        row = self.first * conv.stride[0] + (halo[0] - conv.padding[0])
        at = at + row * space.pitch + (halo[1] - conv.padding[1])
        return self.data[self.n, self._in_channel(c), Ramp(at, 1, self.lanes)]

    def _store(self, value: Any, at: tuple[Any, Any, Any], lanes: int) -> None:
        """Store activation(value + residual) at (channel, row, column)."""
        channel, row, x = at
        index = [self.n, channel, row, emit.run(x, lanes)]
        if self.residual is not None:
            value = value + self.residual[tuple(index)]
        emit.store(self.out, apply_activation(value, self.task.activation), index)


def _pitch(width: int, layout: Layout) -> int:
    """Bytes from a row of a map to the next."""
    return 4 * (layout.halo[1] + width + layout.halo[3])
