"""Sets that are never fetched, for their licence or for want of a stable address: read, or said where to put them."""
from __future__ import annotations

from collections.abc import Callable

from ssl_bench.datasets.download import read_or_fetch
from ssl_bench.datasets.images import DataSet


def read_placed(name: str, root: str, read: Callable[[str], DataSet], how: str) -> DataSet:
    """`read(root)`; where that finds files missing, one line with `how` to place them.

    Raises:
        FileNotFoundError: files are missing.
        NotADirectoryError: `root` is a file.
    """
    return read_or_fetch(name, root, read, (), f"it is never downloaded: {how}", download=False)
