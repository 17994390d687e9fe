"""Lists of image files and folders, in one order on every file system."""
from __future__ import annotations

import os

from ssl_bench.datasets.decode import SUFFIXES


def image_files(folder: str) -> list[str]:
    """Image files at any depth below `folder`, by suffix, without hidden files and folders.

    Sorted by (folder, file name), which is the order of torchvision's ImageFolder inside one class. Links to folders
    are followed; a link back to a folder it lies in is not.
    """
    found: list[tuple[str, str]] = []
    _collect(folder, frozenset(), found)
    return [os.path.join(where, name) for where, name in sorted(found)]


def visible(folder: str) -> tuple[list[str], list[str]]:
    """(sub-folder names, image file names) directly in `folder`, sorted, without hidden ones."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            # No is_file() here: a link that leads nowhere must be reported when it is read, not vanish silently.
            elif entry.name.lower().endswith(SUFFIXES):
                files.append(entry.name)
    return sorted(folders), sorted(files)


def _collect(folder: str, above: frozenset[tuple[int, int]], found: list[tuple[str, str]]) -> None:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    folders, files = visible(folder)
    found.extend((folder, name) for name in files)
    for name in folders:
        _collect(os.path.join(folder, name), above | {identity}, found)
