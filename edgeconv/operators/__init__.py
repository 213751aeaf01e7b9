"""What operators compute, as tensor expressions in ONNX's layouts; `schedules` decide how they run.

Importing this package fills the table of `registry`.
"""

from edgeconv.operators import (  # noqa: F401
    arithmetic,
    convolution,
    convolution_nd,
    depthwise_branches,
    elementwise,
    fold,
    fused,
    gathering,
    internal,
    matmul,
    normalization,
    pooling,
    reduce,
    resize,
    sampling,
    shape,
    unary_math,
)
