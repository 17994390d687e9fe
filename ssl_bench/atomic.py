"""Files that are there whole or not at all: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


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
        os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise OSError(f"cannot write {path}: {' '.join(str(error).split())[:200]}; what was there before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)
