"""The version of edgeconv."""

__version__ = "0.1.0"
