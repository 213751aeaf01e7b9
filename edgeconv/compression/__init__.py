"""Lossy rewrites of ONNX networks that lower their work: `compress`."""

from edgeconv.compression.compressing import compress
from edgeconv.compression.report import CompressedLayer, Compression, KeptLayer

__all__ = ["CompressedLayer", "Compression", "KeptLayer", "compress"]
