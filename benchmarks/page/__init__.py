"""`edgeconv report`: results as one HTML page without network access, and charts as SVG files."""

from __future__ import annotations

from edgeconv.benchmarks.page.page import write_charts, write_page

__all__ = ["write_charts", "write_page"]
