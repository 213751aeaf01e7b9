"""What operators compute, as tensor expressions in ONNX's layouts; how they run is `schedules`' matter.

Importing this package fills the table of `registry`.
"""

from edgeconv.operators import (  # noqa: F401
    arithmetic,
    convolution,
    convolution_nd,
    elementwise,
    gathering,
    matmul,
    normalization,
    pooling,
    reduce,
    resize,
    shape,
    unary_math,
)
