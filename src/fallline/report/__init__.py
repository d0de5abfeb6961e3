"""The report of a study: one self-contained HTML file, and its short form for the terminal."""

from fallline.report.files import write
from fallline.report.page import render

__all__ = ["render", "write"]
