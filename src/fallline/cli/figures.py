"""Figures of the command line: printed as text, written as SVG."""

from __future__ import annotations

import sys
from pathlib import Path

from fallline.core.errors import InvalidValueError
from fallline.report.lines import Lines

__all__ = ["check_svg", "show"]


def check_svg(svg: Path | None) -> None:
    """Raise before any work is done unless ``svg`` is None or names an SVG file."""
    if svg is not None and svg.suffix != ".svg":
        raise InvalidValueError(
            f"--svg got {str(svg)!r}. Expected a file that ends in .svg. Write for example --svg figure.svg."
        )


def show(figure: Lines, svg: Path | None, below: str = "") -> None:
    """Print the figure and the lines ``below`` it, and write it to ``svg`` where that is given."""
    check_svg(svg)
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    plain = not encoding.startswith("utf")
    text = "\n".join([figure.text(plain=plain), "", *below.splitlines()]).rstrip()
    print(text.replace("\u2212", "-").encode("ascii", "replace").decode() if plain else text)
    if svg is not None:
        try:
            svg.write_text(figure.svg(), encoding="utf-8")
        except OSError as error:
            raise InvalidValueError(
                f"--svg could not write {str(svg)!r}: {error.strerror}. Expected a folder that exists and can be written. Choose another path."
            ) from None
        print(f"\nWritten to {svg}")
