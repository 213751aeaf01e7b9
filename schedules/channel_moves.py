"""Concatenations, slices and shuffles of channels in blocks that do not stay whole, and copies of
blocks into NHWC.

Read plainly, every element is fetched by itself. Here a vector of output channels is put together
from the vectors that hold them, one lane permute for each: what it costs is mostly memory.

    parallel row
      block of output channels (unrolled)
        pixel
          out = permute(vector, vector, …)

A concatenation of whole blocks has no kernel at all (see graph/concat_in_place).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import PARALLEL_ELEMENTS, ceil_div, run_parallel
from edgeconv.schedules.tensor_expr import Tensor, TensorTask, parameter
from edgeconv.targets import Device

MOST_BLOCKS = 128  # each has code of its own

Channels = Sequence[tuple[int, int]]  # of each output channel: operand and channel in it


def supports(task: TensorTask, device: Device) -> bool:
    """Whether operands and result are float32 images in blocks that fit a vector."""
    out = task.outputs[0]
    if len(out.shape) != 4 or not task.is_float32:
        return False
    block, channels = out.layout.block, out.shape[1]
    blocks = [t.layout.block for t in task.inputs] + [block] * (block != channels)
    fits = all(1 < b <= device.lanes and b & (b - 1) == 0 for b in blocks)
    return fits and block > 1 and channels <= MOST_BLOCKS * device.lanes


def build(task: TensorTask, channels: Channels, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(inputs…, out)` with out[:, k] = inputs[i][:, c], (i, c) = channels[k].

    Padding lanes of the last block repeat its last channel.
    """
    inputs, out = task.inputs, task.outputs[0]
    n, c, h, w = out.shape
    block = out.layout.block
    lanes = min(1 << (block.bit_length() - 1), device.lanes)
    nhwc = block == c  # the last vector overlaps its neighbour
    starts = [min(s, c - lanes) if nhwc else s for s in range(0, c, lanes)]

    def body() -> None:
        sources = [parameter(f"x{i}", tensor) for i, tensor in enumerate(inputs)]
        target = parameter("out", out)
        grid = dict(n=n, y=h)
        with emit.loops(**grid) as axes, emit.block("row"):
            image, y = emit.all_spatial(grid, axes)
            for start in starts:
                wanted = [channels[min(k, c - 1)] for k in range(start, start + lanes)]
                slots = Ramp(start % block, 1, lanes)
                with T.serial(0, w) as x:
                    vector = _gathered(sources, inputs, wanted, (image, y, x))
                    emit.store(target, vector, [image, start // block, y, x, slots])

    sch = Schedule(emit.prim_func("channel_moves", body))
    loops = sch.get_loops(sch.get_sblock("row"))
    run_parallel(sch, loops, n * c * h * w, device, PARALLEL_ELEMENTS)
    return sch.mod["main"]


def _gathered(
    sources: Sequence[Any], inputs: Sequence[Tensor], wanted: Channels, at: tuple[Any, Any, Any]
) -> Any:
    """The vector of the wanted channels of a pixel."""
    lanes, (image, y, x) = len(wanted), at
    places = [(i, *divmod(c, inputs[i].layout.block)) for i, c in wanted]
    result: Any = None
    for number, chunk in dict.fromkeys((i, chunk) for i, chunk, _ in places):
        width = inputs[number].layout.block
        vector = sources[number][image, chunk, y, x, Ramp(0, 1, width)]
        # lanes of other vectors are left as they are; at first they hold anything
        own = [slot if (i, k) == (number, chunk) else None for i, k, slot in places]
        if result is None:
            order = [0 if slot is None else slot for slot in own]
            whole = order == list(range(width)) and width == lanes
            # a permute can't have more lanes than it reads
            copies = [vector] * ceil_div(lanes, width)
            result = T.Bind(vector if whole else tirx.Shuffle(copies, order))
            continue
        order = [k if slot is None else lanes + slot for k, slot in enumerate(own)]
        result = T.Bind(tirx.Shuffle([result, vector], order))
    return result
