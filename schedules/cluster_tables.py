"""Tables of channel numbers inside packed weights.

A kernel's parameters are floats; the numbers of a table are stored as the bits of floats and only
ever moved, never computed with as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx


def as_floats(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32 numbers as float32 of the same bits."""
    return np.asarray(numbers, np.int32).view(np.float32)


def number(table: Any, index: Any) -> Any:
    """The int32 number whose bits element `index` of a float buffer holds."""
    return tirx.reinterpret("int32", table[index])
