"""A published set: read where it lies, unpacked if its archives were placed by hand, else fetched."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ssl_bench.datasets.archive import BadArchive, is_archive, unpack
from ssl_bench.datasets.file_lock import FileLock
from ssl_bench.datasets.images import DataSet
from ssl_bench.datasets.transfer import fetch, mismatch
from ssl_bench.messages import reason_of


@dataclass(frozen=True)
class Remote:
    """A file of a published set.

    Attributes:
        name: of the file; archives (.tar, .tar.gz, .tgz, .zip) are unpacked where they lie.
        urls: where it may be fetched, tried in order; none: its host is gone, it can only be placed by hand.
        checksum: md5 (32 hex digits) or sha256 (64); "" where none is published, see `transfer.fetch`.
        folder: where it belongs, below the root; "" is the root itself. An archive is found in the root too.
        makes: what unpacking it makes in `folder`; while something else is missing, an archive whose product is there is not
            fetched.
        inner: archives inside the archive that are unpacked too.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str
    folder: str = ""
    makes: str = ""
    inner: tuple[str, ...] = ()

    def place(self, root: str) -> str:
        """Where the file lies, or is to be put."""
        places = [os.path.join(root, self.folder, self.name), os.path.join(root, self.name)]
        return next(filter(os.path.isfile, places[: 1 + is_archive(self.name)]), places[0])

    def made(self, root: str) -> bool:
        """Whether there is something that this file made."""
        return os.path.exists(os.path.join(root, self.folder, self.makes or self.name))


def read_or_fetch(
    name: str, root: str, read: Callable[[str], DataSet], files: Sequence[Remote], by_hand: str, download: bool
) -> DataSet:
    """Read a set from `root`; if it is not there, unpack the archives that lie there, fetch what is missing, and read again.

    Files and folders appear whole, under their own names; nothing that was there before is removed, damaged files are
    replaced. One process at a time does this, others wait and then read.

    Args:
        name: of the set, for messages.
        root: folder of the data; created for a download.
        read: folder -> DataSet; raises FileNotFoundError when files are missing or damaged.
        files: what the set is published as.
        by_hand: how to place the files by hand, as in "put A and B into ROOT".
        download: whether fetching is allowed.

    Raises:
        FileNotFoundError: absent, and `download` is off, or there is nowhere to fetch it from.
        OSError: the download failed, or an archive cannot be unpacked.
    """
    if os.path.lexists(root) and not os.path.isdir(root):
        raise NotADirectoryError(f"{name}: {root} is a file, not a folder; {by_hand}")
    try:
        return read(root)
    except FileNotFoundError as error:
        absent = f"no {error.filename}" if error.filename else error
    todo = [file for file in files if not file.made(root)] or list(files)
    todo = [file for file in todo if download and file.urls or is_archive(file.name) and os.path.isfile(file.place(root))]
    if not todo:
        raise FileNotFoundError(f"{name} is not complete in {root} ({absent}); {by_hand}")
    try:
        with _folders(root, *(os.path.join(root, file.folder) for file in todo)), _alone(root):
            with suppress(FileNotFoundError):
                return read(root)  # another process was faster
            _complete(root, todo, download)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is not complete in {root} ({error}); {by_hand}") from None
    except (OSError, BadArchive) as error:
        reason = reason_of(error)
        raise OSError(f"{name}: the download to {root} failed ({reason}); {by_hand}") from error
    try:
        return read(root)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is not complete in {root} ({error}); {by_hand}") from None


def _complete(root: str, files: Sequence[Remote], download: bool) -> None:
    for file in files:
        path = file.place(root)
        if download and file.urls:
            fetch(file.urls, file.checksum, path)
        elif wrong := mismatch(path, file.checksum):
            raise FileNotFoundError(f"{file.name} there is damaged, or another version: {wrong}")
    for file in files:
        if is_archive(file.name):
            print(f"unpacking {file.place(root)}", flush=True)
            unpack(file.place(root), os.path.join(root, file.folder), file.inner)


@contextmanager
def _alone(root: str) -> Iterator[None]:
    """No other process fetches into `root` meanwhile."""
    path = Path(root, ".download.lock")
    while True:
        lock = FileLock(path)
        lock.exclusive(f"waiting for another run that fetches into {root}")
        if not lock.is_stale():
            break
        lock.close()
    try:
        yield
    finally:
        lock.remove()


@contextmanager
def _folders(*folders: str) -> Iterator[None]:
    """These folders exist meanwhile; those made for it and still empty go again."""
    created: list[str] = []
    try:
        for folder in folders:
            created[:0] = _missing_folders(folder)
            os.makedirs(folder, exist_ok=True)
        yield
    finally:
        for folder in created:
            with suppress(OSError):  # not empty
                os.rmdir(folder)


def _missing_folders(folder: str) -> list[str]:
    """`folder` and those above it that do not exist yet, the deepest first."""
    missing, folder = [], os.path.abspath(folder)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing
