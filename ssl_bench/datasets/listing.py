"""Lists of image files and folders, in one order on every file system."""
from __future__ import annotations

import os
from collections.abc import Sequence

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
            if _is_folder(entry):
                folders.append(entry.name)
            # No is_file() here: a link that leads nowhere must be reported when it is read, not vanish silently.
            elif entry.name.lower().endswith(SUFFIXES):
                files.append(entry.name)
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself: reported when it is read, like one that leads nowhere
        return False


def _collect(folder: str, above: frozenset[tuple[int, int]], found: list[tuple[str, str]]) -> None:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    folders, files = visible(folder)
    found.extend((folder, name) for name in files)
    for name in folders:
        _collect(os.path.join(folder, name), above | {identity}, found)


def absent(paths: Sequence[str]) -> list[int]:
    """Positions of the paths that do not exist; a link that leads nowhere does.

    Each folder is listed once: on a network drive, asking for 75,000 files one by one would take minutes.
    """
    held: dict[str, frozenset[str]] = {}
    missing = []
    for i, path in enumerate(paths):
        folder, _, name = path.rpartition(os.sep)
        if folder not in held:
            held[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        # Asked again, since some file systems take a.JPG for a.jpg.
        if name not in held[folder] and not os.path.lexists(path):
            missing.append(i)
    return missing


def require(paths: Sequence[str]) -> None:
    """FileNotFoundError, naming the first and how many they are, if some of these files do not exist."""
    if missing := absent(paths):
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} images are missing, the first is {paths[missing[0]]}")
