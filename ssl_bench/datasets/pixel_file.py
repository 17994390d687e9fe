"""A file of uint8 pixels of many images of different sizes, memory-mapped: the format of `--cache`.

    header   magic, version, short side, key of the data set, number of images, checksum of header and index
    index    height, width, crc32 of the pixels: three uint32 an image
    pixels   (height, width, 3) uint8 an image, one after the other, from the next multiple of 4096 bytes on
"""
from __future__ import annotations

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

VERSION = 1
_MAGIC = b"SSLBENCH"
_HEADER = struct.Struct("<8sII32sQ32s")
_PAGE = 4096
_SAMPLES = 16  # images whose pixels are compared with their checksum when a file is opened


class BadPixelFile(ValueError):
    """The file is not a whole pixel file of this data set; the message says why."""


def write(file: BinaryIO, images: Iterable[np.ndarray], count: int, short_side: int, key: bytes) -> None:
    """Write `count` images (H, W, 3) uint8 to an open, empty, seekable file; the header comes last.

    short_side, key (32 bytes): what the pixels are made of, compared when the file is opened.
    """
    index = np.zeros((count, 3), dtype="<u4")
    file.seek(_pixels_from(count))
    for row, image in enumerate(images):
        content = image.tobytes()
        index[row] = *image.shape[:2], zlib.crc32(content)
        file.write(content)
    file.truncate(_pixels_from(count) + _lengths(index).sum())  # not written by a seek when the set has no pixels
    file.seek(0)
    file.write(_header(short_side, key, index))
    file.write(index.tobytes())


def _header(short_side: int, key: bytes, index: np.ndarray) -> bytes:
    fields = (_MAGIC, VERSION, short_side, key, len(index))
    digest = hashlib.sha256(_HEADER.pack(*fields, bytes(32)) + index.tobytes()).digest()
    return _HEADER.pack(*fields, digest)


def _pixels_from(count: int) -> int:
    return -(-(_HEADER.size + 12 * count) // _PAGE) * _PAGE


def _lengths(index: np.ndarray) -> np.ndarray:
    return index[:, 0].astype(np.int64) * index[:, 1] * 3


class PixelFile:
    """Read access to one file; pickles as its name, so that worker processes map the same pages instead of copying them.

    Args:
        path: of the file.
        short_side, key: as given to `write`.

    Raises:
        BadPixelFile: truncated, corrupt, of another version, data set or size.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, short_side: int, key: bytes) -> None:
        self.path, self.short_side, self.key = path, short_side, key
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise BadPixelFile("is truncated")
            magic, version, side, whose, count, _ = _HEADER.unpack(header)
            if magic != _MAGIC:
                raise BadPixelFile("is corrupt: it does not begin as a cache does")
            if version != VERSION:
                raise BadPixelFile(f"is of version {version}, not {VERSION}")
            if (side, whose) != (short_side, key):
                raise BadPixelFile("is of another data set or --cache-size")
            if size < _pixels_from(count):
                raise BadPixelFile("is truncated")
            index = np.frombuffer(file.read(12 * count), dtype="<u4").reshape(count, 3)
            if header != _header(side, whose, index):
                raise BadPixelFile("is corrupt: the checksum of its index is wrong")
            self._index = index
            self._start = _pixels_from(count) + np.concatenate([[0], np.cumsum(_lengths(index))])
            if size != self._start[-1]:
                raise BadPixelFile(f"has {size:,} bytes, not {self._start[-1]:,}: truncated, or written to")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple:
        return PixelFile, (self.path, self.short_side, self.key)

    def __len__(self) -> int:
        return len(self._index)

    def check_samples(self) -> None:
        """Compare the pixels of some images, evenly spread, with their checksums.  Raises BadPixelFile."""
        for i in sorted(set(np.linspace(0, len(self) - 1, _SAMPLES).astype(int).tolist())):
            if zlib.crc32(self._pixels(i).data) != self._index[i, 2]:
                raise BadPixelFile(f"is corrupt: the checksum of image {i} is wrong")

    def load(self, i: int) -> torch.Tensor:
        """Image i: a copy, uint8 (3, H, W), in memory the three levels of a pixel together."""
        import torch

        height, width = self._index[i, :2].tolist()
        return torch.from_numpy(self._pixels(i).reshape(height, width, 3).copy()).permute(2, 0, 1)

    def _pixels(self, i: int) -> np.ndarray:
        start, stop = self._start[i : i + 2].tolist()
        return np.frombuffer(self._map, np.uint8, stop - start, start)


class Rows(Protocol):
    """Decoded images in a file: a `PixelFile`, or `mapped_rows.MappedRows`."""

    def load(self, i: int) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class CachedRows:
    """Some images of such a file: `rows`, int64 (N,), in that order."""

    file: Rows
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, i: int) -> torch.Tensor:
        return self.file.load(int(self.rows[i]))

    def take(self, chosen: np.ndarray) -> CachedRows:
        return CachedRows(self.file, self.rows[chosen])
