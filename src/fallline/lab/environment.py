"""What the numbers were measured on: versions, processor, threads, load."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fallline import __version__

__all__ = ["describe", "load_average"]


def describe() -> dict[str, Any]:
    """Versions and hardware as a flat dict of strings and numbers."""
    return {
        "fallline": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads per run": 1,
        "device": "cpu",
        "revision": _revision(),
    }


def load_average() -> float | None:
    """Runnable processes over the last minute, or None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str:
    """The commit of the source tree that runs, if it is a checkout."""
    home = Path(__file__).parents[3]
    if not (home / ".git").exists():
        return "installed package"
    try:
        command = ["git", "-C", str(home), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
