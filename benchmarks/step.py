"""Time optimizer steps: the same as ``fallline bench step``, for a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fallline.cli import main

sys.exit(main(["bench", "step", *sys.argv[1:]]))
