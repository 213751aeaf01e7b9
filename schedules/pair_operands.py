"""What the kernels of two fused convolutions share: their parameters, and scratch between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx import Ramp

from edgeconv.schedules import emit
from edgeconv.schedules.common import Mismatch, is_partial
from edgeconv.workload import Conv2d, ConvTask, PairTask

ALIASING = 1024  # bytes; rows that lie a multiple apart compete for few ways of the L1 cache
SCRATCH_CYCLES = 250  # to get and give back an array of scratch memory
L2_SHARE = 0.5  # of the second-level cache, for a strip
L2_STALL = 0.3  # cycles of a vector that is written and read there


@dataclass(frozen=True)
class PairOperands:
    """Parameters `(data, weight, [bias], weight, [bias], [residual], out)`.

    `second` has the operands of the second convolution; its data is the first's.
    """

    first_weight: Any
    first_bias: Any | None
    second: emit.ConvOperands

    @property
    def data(self) -> Any:
        """The input."""
        return self.second.data


def declare(
    task: PairTask,
    first_shapes: tuple[Sequence[int], Sequence[int]],
    second_shapes: tuple[Sequence[int], Sequence[int]],
) -> PairOperands:
    """The parameters; shapes are those of packed weights and bias."""
    first, second = task.first, task.second
    conv = first.conv
    in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
    out_shape = second.conv.output_shape
    data = emit.whole("data", in_shape, first.data)
    weight = emit.buffer("weight", first_shapes[0])
    bias = emit.buffer("bias", first_shapes[1]) if first.bias else None
    operands = emit.ConvOperands(
        second,
        data,
        emit.buffer("weight2", second_shapes[0]),
        emit.buffer("bias2", second_shapes[1]) if second.bias else None,
        None if second.residual is None else emit.interior("residual", out_shape, second.residual),
        emit.planes("out", out_shape)
        if second.out.block == 1
        else emit.interior("out", out_shape, second.out),
    )
    return PairOperands(weight, bias, operands)


class Rows:
    """Scratch [vector, row, column, lane] in memory, with one axis: TVM cuts unused ends off
    others.
    """

    def __init__(
        self, name: str, shape: tuple[int, int, int], lanes: int, *, compact: bool = False
    ) -> None:
        vectors, self.rows, columns = shape
        self.lanes, self.pitch = lanes, columns if compact else pitch(columns, lanes)
        self.array = emit.scratch(name, (vectors * self.rows * self.pitch * lanes,))

    def element(self, vector: Any, row: Any, column: Any, slot: Any = 0) -> Any:
        """The index of an element."""
        return ((vector * self.rows + row) * self.pitch + column) * self.lanes + slot

    def load(self, vector: Any, row: Any, column: Any) -> Any:
        """The vector of a pixel."""
        return self.array[Ramp(self.element(vector, row, column), 1, self.lanes)]

    def store(self, value: Any, vector: Any, row: Any, column: Any) -> None:
        """Set the vector of a pixel."""
        emit.store(self.array, value, [Ramp(self.element(vector, row, column), 1, self.lanes)])


def pitch(columns: int, lanes: int) -> int:
    """Pixels from a row of scratch to the next."""
    return columns + (columns * lanes * 4 % ALIASING == 0)


def is_plain_pointwise(conv: Conv2d) -> bool:
    """A 1×1 convolution of all channels, pixel by pixel."""
    single = conv.is_pointwise and conv.stride == (1, 1) and not any(conv.padding)
    return single and conv.groups == 1 and conv.input_shuffle == 1 and conv.slices is None


def is_plain_depthwise(conv: Conv2d) -> bool:
    """One filter a channel, on whole images."""
    single = conv.is_depthwise and conv.out_channels == conv.in_channels
    return single and conv.input_shuffle == 1 and conv.slices is None and min(conv.padding) >= 0


def fit(task: PairTask) -> Mismatch | None:
    """None if the second convolution reads what the first makes, and both are whole."""
    first, second = task.first, task.second
    for one in (first, second):
        if (partial := is_partial(one)) is not None:
            return partial
    conv = second.conv
    if first.conv.output_shape != (conv.batch, conv.in_channels, conv.height, conv.width):
        return Mismatch("the second convolution reads something else")
    if first.residual is not None:
        return Mismatch("something is added between the two")
    return _residual(second)


def _residual(task: ConvTask) -> Mismatch | None:
    if task.residual is not None and task.residual.block != task.out.block:
        return Mismatch("the residual lies in other blocks than the output")
    return None
