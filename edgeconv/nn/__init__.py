"""Structured convolutions for people who design networks, as PyTorch modules.

Every block exports to plain ONNX, takes the place of an `nn.Conv2d`, and is trained like one;
`replace` swaps the dense convolutions of a whole model. Needs the extra `edgeconv[nn]`.
"""

from __future__ import annotations

from edgeconv.errors import EdgeconvError

try:
    import torch  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise EdgeconvError(
        f"edgeconv.nn needs PyTorch, which can't be loaded ({error}): pip install 'edgeconv[nn]'"
    ) from error

from edgeconv.nn.bsconv import BSConvS, BSConvU, orthonormal_loss
from edgeconv.nn.ddc import DDC
from edgeconv.nn.grouped import GroupedBottleneck
from edgeconv.nn.replacing import Kept, Replaced, Replacement, replace
from edgeconv.nn.sliding import SlidingChannelConv2d, window_starts

__all__ = [
    "BSConvS",
    "BSConvU",
    "DDC",
    "GroupedBottleneck",
    "Kept",
    "Replaced",
    "Replacement",
    "SlidingChannelConv2d",
    "orthonormal_loss",
    "replace",
    "window_starts",
]
