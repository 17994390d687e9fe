"""Archives: unpacked whole or not at all, never outside the folder they are meant for."""
from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence

_TAR = (".tar", ".tar.gz", ".tgz")
_STAGING = ".unpacking"


class BadArchive(ValueError):
    """An archive is damaged, or would write outside its folder; the message names it."""


def is_archive(name: str) -> bool:
    """Whether `unpack` takes a file of this name."""
    return name.endswith((*_TAR, ".zip"))


def unpack(path: str, folder: str, inner: Sequence[str] = ()) -> None:
    """Unpack a tar (plain or gzip) or zip file into `folder`, beside what is there; files of the same name are replaced.

    Everything is unpacked into a hidden folder and then moved, so that an end in the middle leaves no partial set.
    Only one process at a time may unpack into one folder.

    Args:
        path: the archive; it stays.
        folder: where its members go; exists.
        inner: archives inside it, as paths in it: they are unpacked where they lie, and removed.

    Raises:
        BadArchive: damaged, or a member would lie outside `folder`; nothing was unpacked then.
        OSError: the disk did not take it.
    """
    staging = os.path.join(folder, _STAGING)
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    try:
        _extract(path, staging)
        for name in inner:
            nested = os.path.join(staging, *name.split("/"))
            _extract(nested, os.path.dirname(nested))
            os.remove(nested)
        _move_into(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def crc_error(path: str, name: str) -> str | None:
    """What is wrong with a gzip or zip file (told by `name`) by the CRC-32 it carries, or None; reads all of it.

    A plain tar carries checksums of its headers only: whether all members are there.
    """
    try:
        if name.endswith(".tar"):
            with tarfile.open(path) as archive:
                return None if archive.getmembers() else "it is empty"
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
                return damaged and f"{damaged} in it is damaged"
        if not os.path.getsize(path):
            return "it is damaged (empty)"  # which gzip lets pass
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"it is damaged ({error})"
    return None


def _extract(path: str, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    try:
        if path.endswith(".zip"):
            _extract_zip(path, folder)
        else:
            _extract_tar(path, folder)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadArchive(f"{path} cannot be unpacked: {' '.join(str(error).split()) or type(error).__name__}") from error


def _extract_tar(path: str, folder: str) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise BadArchive(f"{path}: this Python cannot unpack it safely; take the latest 3.10 or a newer one, or unpack by hand")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")


def _extract_zip(path: str, folder: str) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            # zipfile would quietly write such a member somewhere else.
            if name.startswith(("/", "\\")) or ":" in name or ".." in re.split(r"[/\\]", name):
                raise BadArchive(f"{path} cannot be unpacked: its member {name!r} lies outside of it")
        archive.extractall(folder)


def _move_into(source: str, target: str) -> None:
    """Move what is in `source` into the folder `target`; a folder that is there already gets what it lacks."""
    with os.scandir(source) as entries:
        for entry in entries:
            goal = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False) and os.path.isdir(goal):
                _move_into(entry.path, goal)
            else:
                os.replace(entry.path, goal)
