"""Half of ONNX's conformance suite; its neighbour is the other, for two test processes."""

from tests.conformance import suite

globals().update(suite.collect(0, 2))
