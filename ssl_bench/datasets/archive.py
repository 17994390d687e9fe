"""Archives: unpacked whole or not at all, never outside the folder they are meant for."""
from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, cast

from ssl_bench.messages import reason_of

_TAR = (".tar", ".tar.gz", ".tgz")
_STAGING = ".unpacking"
FREE = 2**30
"""Bytes that any archive may unpack to."""
RATIO = 100
"""Beyond them, how many times its own size an archive may unpack to: of photographs it is about 1, of lists of text 10."""
_FAR_TOO_LARGE = f"it would take more than {RATIO} times its own size on the disk, as no data set does"
# zipfile: NotImplementedError of a packing it does not know, RuntimeError of a password.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_HEADER = 2**24  # bytes of a tar's header that are read at once; a long name has some hundred


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
        BadArchive: damaged, a member would lie outside `folder` (by its name or a link's) or is no file, or they all would take far
            more room than the archive; nothing was unpacked then.
        OSError: the disk has no room for it.
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
            with _open_tar(path, FREE + RATIO * os.path.getsize(path)) as archive:
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
    except _DAMAGED as error:
        return f"it is damaged ({error})"
    return None


def _extract(path: str, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    try:
        if path.endswith(".zip"):
            _extract_zip(path, folder)
        else:
            _extract_tar(path, folder)
    except _DAMAGED as error:
        raise BadArchive(f"{path} cannot be unpacked: {reason_of(error)}") from error


class _Bounded:
    """What a gzip file holds, up to so many bytes: tarfile reads headers of any length into memory."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER or self._file.tell() + size > self._limit + _HEADER:
            raise tarfile.ReadError(_FAR_TOO_LARGE)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset > self._limit + _HEADER:
            raise tarfile.ReadError(_FAR_TOO_LARGE)
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


@contextlib.contextmanager
def _open_tar(path: str, limit: int) -> Iterator[tarfile.TarFile]:
    """Plain or gzip, whatever its name says."""
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(open(path, "rb")).read(2)
        packed = cast(IO[bytes], _Bounded(stack.enter_context(gzip.open(path)), limit)) if start == b"\x1f\x8b" else None
        yield stack.enter_context(tarfile.open(path, "r:", packed))


def _extract_tar(path: str, folder: str) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise BadArchive(f"{path}: this Python cannot unpack it safely; take the latest 3.10 or a newer one, or unpack by hand")
    limit, taken = FREE + RATIO * os.path.getsize(path), 0

    def allowed(member: tarfile.TarInfo, where: str) -> tarfile.TarInfo | None:
        nonlocal taken
        taken += member.size
        if taken > limit:
            raise BadArchive(f"{path} cannot be unpacked: {_FAR_TOO_LARGE}")
        if member.issym() and not _stays(member, where) or member.islnk() and (_leads_out(member.linkname) or _has_link(where, member.linkname)):
            raise BadArchive(f"{path} cannot be unpacked: its link {member.name!r} leads outside of it")
        _require_room(member.size, folder)
        return tarfile.data_filter(member, where)

    with _open_tar(path, limit) as archive:
        archive.extractall(folder, filter=allowed)


def _stays(member: tarfile.TarInfo, where: str) -> bool:
    """Whether a symbolic link leads into `where`, whatever else lies there.

    Python's own filter follows links by their resolved paths, which has been got around (CVE-2025-4517).  Here a link may lead up only
    at its beginning, by no more folders than it lies in, none of which is a link: so it stays inside through any others.
    """
    target = member.linkname
    while target.startswith("../"):
        target = target[3:]
    up = (len(member.linkname) - len(target)) // 3
    if not up:
        return not _leads_out(target)
    inside = [part for part in member.name.split("/")[:-1] if part not in ("", ".")]
    return not _leads_out(target) and ".." not in inside and up <= len(inside) and not _has_link(where, "/".join(inside))


def _has_link(where: str, name: str) -> bool:
    """Whether any part of a path inside `where` is a symbolic link there."""
    parts = name.split("/")
    return any(os.path.islink(os.path.join(where, *parts[: end + 1])) for end in range(len(parts)))


def _extract_zip(path: str, folder: str) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            # zipfile would quietly write such a member somewhere else.
            if _leads_out(name):
                raise BadArchive(f"{path} cannot be unpacked: its member {name!r} lies outside of it")
        total = sum(member.file_size for member in archive.infolist())
        if total > FREE + RATIO * os.path.getsize(path):
            raise BadArchive(f"{path} cannot be unpacked: {_FAR_TOO_LARGE}")
        _require_room(total, folder)
        archive.extractall(folder)


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "\\")) or ":" in name or ".." in re.split(r"[/\\]", name)


def _require_room(size: int, folder: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(f"{folder} has {free / 2**30:.1f} GiB free, {size / 2**30:.1f} GiB are needed")


def _move_into(source: str, target: str) -> None:
    """Move what is in `source` into the folder `target`; a folder that is there already gets what it lacks."""
    with os.scandir(source) as entries:
        for entry in entries:
            goal = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False) and os.path.isdir(goal):
                _move_into(entry.path, goal)
            else:
                os.replace(entry.path, goal)
