"""Puts this folder on the path, so that its tests can share nets, and keeps threads from forked ranks."""

import sys
from pathlib import Path

from threads import one_thread

__all__ = ["one_thread"]

sys.path.insert(0, str(Path(__file__).parent))
