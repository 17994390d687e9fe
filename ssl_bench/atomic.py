"""Files that are there whole or not at all: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

RENAME_WAITS = (0.02, 0.1, 0.3, 1.0, None)  # seconds before a rename is tried again (Windows refuses while somebody reads the file); None: not any more

_NO_FLUSH_HERE = (errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EACCES)  # of folders, on some drives across a network


def write_json(path: Path, body: Any) -> None:
    """Atomic, readable JSON."""
    write_bytes(path, (json.dumps(body, indent=1, default=list) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Atomic write."""
    write_with(path, lambda file: file.write(content))


def write_with(path: Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Atomic write of whatever `writer` puts into the open file."""
    with _temporary(path) as temporary:
        with open(temporary, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
            inode = os.fstat(file.fileno()).st_ino
        _rename(temporary, path, inode)
    flush_folder(path.parent)  # the rename itself must survive a power cut


def make_folder(path: Path) -> None:
    """Make `path` and what is missing above it, all of which then survives a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush_folder(folder.parent)


def flush_file(path: Path) -> None:
    """What was appended to `path`, and its name, survive a power cut from now on."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """The names in `folder` survive a power cut from now on; where a folder cannot be opened, or flushed, that is the system's care."""
    if os.name == "nt":  # which opens no folders, and keeps names by itself
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that others may write to and not list
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH_HERE:
            raise
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path, inode: int) -> None:
    """os.replace on file systems across a network: one that is busy or stale is asked again, an answer that got lost is no failure."""
    for wait in RENAME_WAITS:
        try:
            os.replace(source, target)
        except OSError:
            if not source.exists() and target.exists() and target.stat().st_ino == inode:
                return
            if wait is None:
                raise
            time.sleep(wait)
        else:
            return


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError, which hides the reason
        reason: BaseException = error
        while not isinstance(reason, OSError) and (deeper := reason.__cause__ or reason.__context__):
            reason = deeper
        raise OSError(f"cannot write {path}: {' '.join(str(reason).split())[:200]}; what was there before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)
