"""`edgeconv report`: results as one HTML page without network access, and charts as SVG files."""

from __future__ import annotations

from edgeconv.benchmarks.page.files import Chart
from edgeconv.benchmarks.page.page import draw_charts, write_page

__all__ = ["Chart", "draw_charts", "write_page"]
