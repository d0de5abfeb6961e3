"""Draw the README's figure from a study's folder: ``fallline compare --suite core``, then ``python tools/suite_figure.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fallline.report.palette import looks
from fallline.report.profile import draw_speedups
from fallline.report.schema import check

TARGET = Path(__file__).parents[1] / "docs" / "figures" / "suite-core.svg"


def figure(folder: Path) -> str:
    """The speed-ups over tuned AdamW as an SVG file for light and dark pages."""
    results = check(json.loads((folder / "results.json").read_text()))
    assert results.ranking is not None, "a ranking needs two tasks or more"
    drawn = draw_speedups(results.ranking, looks(results.ranking.order), len(results.tasks))
    assert drawn is not None
    return drawn.standalone()


if __name__ == "__main__":
    TARGET.write_text(figure(Path(sys.argv[1])), encoding="utf-8")
