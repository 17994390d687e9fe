"""A lock that processes hold on a file, gone with the process however it ends."""
from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # there is no type of a module that may be missing

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network drives: go on without
_BETWEEN_TRIES = 0.1  # seconds, where the system cannot wait for a lock by itself


def can_share() -> bool:
    """Whether several processes can hold a lock together, and remove a file that others hold: not on Windows."""
    return fcntl is not None


class FileLock:
    """A handle on the lock file `path`, holding nothing yet.  Raises OSError where the file is not there and cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # Python hands no descriptor on to a new program

    def try_exclusive(self) -> bool:
        """Hold it alone, if no other process holds it."""
        return self._try(shared=False)

    def exclusive(self, waiting: str) -> None:
        """Hold it alone; `waiting` is printed if that takes a while."""
        self._wait(waiting, shared=False)

    def share(self, waiting: str = "") -> None:
        """Hold it together with others that share it; only where `can_share`."""
        self._wait(waiting, shared=True)

    def _try(self, shared: bool) -> bool:
        if fcntl is None:
            return _lock_first_byte(self._handle)
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
        return True

    def _wait(self, waiting: str, shared: bool) -> None:
        if self._try(shared):
            return
        print(waiting, flush=True)
        if fcntl is not None:
            fcntl.flock(self._handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            return
        while not self._try(shared):
            time.sleep(_BETWEEN_TRIES)

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

    def remove(self) -> None:
        """Remove the file of a lock that is held alone, and let go."""
        if fcntl is not None:
            self.path.unlink(missing_ok=True)
        self.close()
        if fcntl is None:  # Windows removes no open file, ours included: another's stays
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go; the file stays."""
        os.close(self._handle)


def _lock_first_byte(handle: int) -> bool:
    """Windows: hold it alone.  Whoever only wants to share it does too."""
    import msvcrt

    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # of Windows only
    except OSError:
        return False
    return True
