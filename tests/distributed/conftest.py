"""Puts this folder on the path, so that its tests can share sharding_tools, and keeps threads from the ranks."""

import sys
from pathlib import Path

from threads import one_thread

__all__ = ["one_thread"]

sys.path.insert(0, str(Path(__file__).parent))
