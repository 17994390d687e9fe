"""Fetching a published set without leaving anything half done, and saying how to place it by hand."""
from __future__ import annotations

import os
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from http.client import HTTPException

from ssl_bench.datasets.images import DataSet

STALLED_SECONDS = 60.0
"""A connection that says nothing for so long is given up; without a limit it would wait for ever."""


def read_or_fetch(
    name: str,
    root: str,
    read: Callable[[str], DataSet],
    fetch: Callable[[str], None],
    by_hand: str,
    download: bool,
) -> DataSet:
    """Read a set from `root`; if it is not there, fetch it and read again.

    Files are fetched into a hidden folder inside `root` and moved when all are complete, so an interrupted download
    leaves nothing behind and nothing that was there before is removed.

    Args:
        name: of the set, for messages.
        root: folder of the data; created for a download.
        read: folder -> DataSet; raises FileNotFoundError when files are missing or damaged.
        fetch: downloads into the folder it is given, and checks what came.
        by_hand: how to place the files by hand, as in "put A and B there (from URL)".
        download: whether fetching is allowed.

    Raises:
        FileNotFoundError: absent, and `download` is off.
        OSError: the download failed.
    """
    if os.path.lexists(root) and not os.path.isdir(root):
        raise NotADirectoryError(f"{name}: {root} is a file, not a folder; {by_hand}")
    try:
        return read(root)
    except FileNotFoundError as absent:
        if not download:
            raise FileNotFoundError(f"{name} is not complete in {root} ({absent}); {by_hand}") from None
    _fetch_all_or_nothing(name, root, fetch, by_hand)
    return read(root)


def _fetch_all_or_nothing(name: str, root: str, fetch: Callable[[str], None], by_hand: str) -> None:
    created = _missing_folders(root)
    staging = None
    patience = socket.getdefaulttimeout()
    try:
        os.makedirs(root, exist_ok=True)
        staging = tempfile.mkdtemp(prefix=".download-", dir=root)
        socket.setdefaulttimeout(STALLED_SECONDS)
        fetch(staging)
        _move_files(staging, root)
    # torchvision reports a wrong checksum as RuntimeError; a cut connection shows as any of the others.
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{name}: the download to {root} failed ({reason}); {by_hand}") from error
    finally:
        socket.setdefaulttimeout(patience)
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in created:
            if os.path.isdir(folder) and not os.listdir(folder):
                os.rmdir(folder)


def _missing_folders(root: str) -> list[str]:
    """`root` and those above it that do not exist yet, the deepest first."""
    missing, folder = [], os.path.abspath(root)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def _move_files(staging: str, root: str) -> None:
    for folder, _, names in os.walk(staging):
        target = os.path.join(root, os.path.relpath(folder, staging))
        os.makedirs(target, exist_ok=True)
        for name in names:
            os.replace(os.path.join(folder, name), os.path.join(target, name))
