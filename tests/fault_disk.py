"""What a child of faults.py sees of the disk: each step of a write can be a fault, and a power cut forgets what was not flushed.

Steps, by name: mkdir, open, write (before it), half (in the middle of it), fsync, dirsync, replace, replaced (after it), unlink.
"""

from __future__ import annotations

import builtins
import collections
import errno
import io
import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("mkdir", "open", "write", "half", "fsync", "dirsync", "replace", "replaced", "unlink")


class Disk:
    """Counts the steps of writes below `root`, and calls `fault(step)` before each; an OSError that it raises is the step's."""

    def __init__(self, root: Path, fault: Callable[[str], None]) -> None:
        self.root, self.fault = str(root), fault
        self.counts: collections.Counter[str] = collections.Counter()
        self.flushed: dict[int, bytes] = {}  # inode -> what was in it when it was flushed last
        self.folders: dict[str, dict[str, int]] = {}  # folder -> name -> inode, likewise
        for folder, _, files in os.walk(root):
            self._flush_folder(folder)
            for name in files:
                self._flush_file(os.path.join(folder, name))

    def install(self) -> None:
        """For the rest of this process."""
        self.real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "mkdir")}
        self.real_open = io.open
        os.fsync, os.replace, os.unlink, os.mkdir = self._fsync, self._replace, self._unlink, self._mkdir  # type: ignore[assignment]
        builtins.open = io.open = self._open  # type: ignore[assignment]

    def _step(self, name: str) -> None:
        self.counts[name] += 1
        self.fault(name)

    def _mine(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(os.fspath(path)).startswith(self.root)

    def _flush_file(self, path: str) -> None:
        with open(path, "rb") as file:
            self.flushed[os.fstat(file.fileno()).st_ino] = file.read()

    def _flush_folder(self, folder: str) -> None:
        with os.scandir(folder) as found:
            self.folders[folder] = {entry.name: entry.inode() for entry in found}

    def _fsync(self, descriptor: int) -> None:
        path, is_folder = os.readlink(f"/proc/self/fd/{descriptor}"), stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if path.startswith(self.root):
            self._step("dirsync" if is_folder else "fsync")
            if is_folder:
                self._flush_folder(path)
            else:
                with self.real_open(path, "rb") as file:
                    self.flushed[os.fstat(file.fileno()).st_ino] = file.read()
        # What is here is what the disk is asked for; the disk itself need not be waited for.

    def _replace(self, source: Any, target: Any, **options: Any) -> None:
        if self._mine(target):
            self._step("replace")
        self.real["replace"](source, target, **options)
        if self._mine(target):
            self._step("replaced")

    def _unlink(self, path: Any, **options: Any) -> None:
        if self._mine(path) and os.path.exists(path):
            self._step("unlink")
        self.real["unlink"](path, **options)

    def _mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        if self._mine(path) and not os.path.exists(path):
            self._step("mkdir")
        self.real["mkdir"](path, mode, **options)

    def _open(self, file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        writes = self._mine(file) and any(letter in mode for letter in "wax+")
        if writes:
            self._step("open")
        opened = self.real_open(file, mode, *rest, **options)
        if not writes:
            return opened
        if "w" in mode:
            self.flushed.pop(os.fstat(opened.fileno()).st_ino, None)
        return _Written(opened, self)

    def cut(self, seed: int) -> None:
        """Leave, in <root>.cut, what a power cut would, and end this process.

        seed 0: nothing that was not flushed.  Else each change of a folder that was not is there or not, and so is the end of a file,
        of which a part may be zeros: what the order of a real disk's writes makes of it.
        """
        coin = random.Random(seed) if seed else None
        after = self.root + ".cut"
        shutil.rmtree(after, ignore_errors=True)
        self._leave(self.root, after, coin)
        os.kill(os.getpid(), signal.SIGKILL)

    def _leave(self, folder: str, target: str, coin: random.Random | None) -> None:
        self.real["mkdir"](target)
        names = dict(self.folders.get(folder, {}))
        if coin is not None:
            with os.scandir(folder) as found:
                now = {entry.name: entry.inode() for entry in found}
            for name in sorted({*now, *names}):
                if now.get(name) != names.get(name) and coin.random() < 0.5:
                    names.pop(name, None)
                    names |= {name: now[name]} if name in now else {}
        for name, inode in names.items():
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                self._leave(path, os.path.join(target, name), coin)
                continue
            content = self.flushed.get(inode, b"")
            if coin is not None and os.path.exists(path) and os.stat(path).st_ino == inode:
                with self.real_open(path, "rb") as file:
                    whole = file.read()
                kept = coin.randint(len(content), max(len(content), len(whole)))
                zeros = coin.choice([0, coin.randint(0, kept - len(content))]) if kept > len(content) else 0
                content = whole[: kept - zeros] + b"\0" * zeros if whole.startswith(content) else content
            with self.real_open(os.path.join(target, name), "wb") as file:
                file.write(content)


class _Written:
    """A file that is open for writing; everything but `write` is its own."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> int:
        self._disk._step("write")
        written = self._file.write(content[: len(content) // 2])
        self._file.flush()
        self._disk._step("half")
        return written + self._file.write(content[len(content) // 2 :])

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def no_space() -> OSError:
    """A disk that is full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
