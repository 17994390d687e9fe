"""A lock that processes hold on a file, gone with the process however it ends."""
from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network drives: go on without


class FileLock:
    """A handle on the lock file `path`, holding nothing yet.  Raises OSError where the file is not there and cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def try_exclusive(self) -> bool:
        """Hold it alone, if no other process holds it."""
        return self._try(fcntl.LOCK_EX)

    def exclusive(self, waiting: str) -> None:
        """Hold it alone; `waiting` is printed if that takes a while."""
        self._wait(fcntl.LOCK_EX, waiting)

    def share(self, waiting: str = "") -> None:
        """Hold it together with others that share it."""
        self._wait(fcntl.LOCK_SH, waiting)

    def _try(self, how: int) -> bool:
        try:
            fcntl.flock(self._handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
        return True

    def _wait(self, how: int, waiting: str) -> None:
        if not self._try(how):
            print(waiting, flush=True)
            fcntl.flock(self._handle, how)

    def is_stale(self) -> bool:
        """Whether the file was removed meanwhile, so that others lock another one."""
        try:
            return os.stat(self.path).st_ino != os.fstat(self._handle).st_ino
        except FileNotFoundError:
            return True

    def remove_if_unused(self, guarded: Path) -> None:
        """Let go; if no other process holds the lock, remove it and the file that it guards."""
        if not self.is_stale() and self.try_exclusive():
            guarded.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go; the file stays."""
        os.close(self._handle)
