"""How much memory this machine can still give."""

from __future__ import annotations

import math
from pathlib import Path

_TABLE = Path("/proc/meminfo")


def available() -> float:
    """Bytes that programs can have without any being swapped out (Linux's MemAvailable); inf where nobody says."""
    if not _TABLE.is_file():
        return math.inf
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)
