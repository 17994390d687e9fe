"""Whether a zip file (a checkpoint of torch's, an npz) is what was written: whole, by its checksums, and no bomb.

torch reads a checkpoint without looking at the checksums it holds: a bit that a disk has turned would be trained on.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

FREE = 2**26
"""Bytes that any file may unpack to."""
RATIO = 20
"""Beyond them, how many times its own size a file may unpack to; weights hardly shrink, and torch and NumPy's savez pack nothing."""

_FOLDER = 0x10  # MS-DOS's attribute: torch reads nothing from such a member, and leaves its tensor as memory happened to be


def is_zip(path: str | Path) -> bool:
    """Whether a file begins as zip files do.  OSError."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_zip(path: str | Path) -> None:
    """ValueError, the message says what is wrong but not with which file; OSError: it cannot be read.  Reads all of the file."""
    try:
        with open(path, "rb") as file:
            _check(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def _check(file: BinaryIO) -> None:
    with zipfile.ZipFile(file) as whole:
        members = whole.infolist()
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise zipfile.BadZipFile("a member is packed in an unknown way")
        if any(member.external_attr & _FOLDER and not member.is_dir() for member in members):
            raise zipfile.BadZipFile("a file is marked as a folder")
        size, held = sum(member.file_size for member in members), file.seek(0, 2)
        if size > FREE + RATIO * held:
            raise ValueError(f"it would unpack to {size:,} bytes, from {held:,}: refused")
        damaged = whole.testzip()
    if damaged is not None and not any(member.CRC for member in members):
        raise ValueError("it was saved without checksums, by torch.serialization.set_crc32_options(False): save it again with them")
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged!r} is wrong")
