"""The bytes of a file that somebody named, or that lies where one is looked for: of a pipe or a device there would be no end."""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # which a pipe's reader does not wait by


def read_file(path: str | os.PathLike[str]) -> bytes:
    """All bytes of the file at `path`, in as few calls as it takes.  OSError: it is not there, cannot be read, or is no plain file."""
    opened = os.open(path, _FLAGS)
    try:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode):
            if stat.S_ISDIR(about.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            raise OSError(errno.EINVAL, "a pipe or device, not a file", str(path))
        found = os.read(opened, min(about.st_size + 1, 1 << 20))
        if len(found) == about.st_size:  # one call, and none to hear that there is no more
            return found
        parts = [found]
        while part := os.read(opened, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(opened)
