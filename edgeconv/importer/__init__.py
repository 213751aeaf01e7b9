"""From ONNX files to checked models (`reading`) and to graphs of operators (`importing`)."""

from edgeconv.importer.importing import import_model
from edgeconv.importer.reading import read_model

__all__ = ["import_model", "read_model"]
