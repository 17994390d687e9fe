"""Images that stand in a data set twice: which test images were trained on, found by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.pools import Pools

_AT_ONCE = 4096  # images whose bytes are copied at a time, to whole words of 8
_SHOWN = 3
Part = tuple[str, Images]


@dataclass(frozen=True)
class Duplicates:
    """Images of the part `name`, of `size` images, that are also in another.

    pairs: (position in `name`, the other part's name, position in it), one an image, in the order of `name`.
    """

    name: str
    size: int
    pairs: tuple[tuple[int, str, int], ...]

    def line(self) -> str:
        """One line that says how many, and shows the first."""
        shown = ", ".join(f"{self.name} {i} = {other} {j}" for i, other, j in self.pairs[:_SHOWN])
        more = ", ..." if len(self.pairs) > _SHOWN else ""
        others = " or ".join(dict.fromkeys(other for _, other, _ in self.pairs))
        also = "stand there twice" if others == self.name else f"are {others} images, too"
        return f"{len(self.pairs)} of the {self.size} {self.name} images {also} ({shown}{more})"


def of_run(data: DataSet, pools: Pools) -> list[Duplicates]:
    """Test images that are training or further unlabelled ones, too, and held-out images that are also in a pool; nothing of files."""
    found = [find(("test", data.test), _training(data))]
    if pools.val is not None:
        found.append(find(("held-out", pools.val), [("labelled", pools.labeled), ("unlabelled", pools.unlabeled)]))
    return [each for each in found if each.pairs]


def of_data_set(data: DataSet) -> list[Duplicates]:
    """Test images that are training or further unlabelled ones, too, and images that a part repeats; files are read as well."""
    parts = _training(data)
    found = [find(("test", data.test), parts, files=True)]
    found += [repeated(part, files=True) for part in (*parts, ("test", data.test))]
    return [each for each in found if each.pairs]


def find(part: Part, others: Sequence[Part], *, files: bool = False) -> Duplicates:
    """The images of `part` that are equal, to the byte, to one of `others`.

    Images in memory are compared by their pixels, 60,000 of CIFAR's in 0.1 s.  files: those that are not (else none of theirs are
    compared), by the bytes of the files; a file is read only if one of the other side has its size.  An image that was stored
    anew, or cut otherwise, is another.  OSError: a file that cannot be read.
    """
    name, images = part
    found: dict[int, tuple[str, int]] = {}
    for other, theirs in others:
        for i, j in _equal(images, theirs, files):
            found.setdefault(i, (other, j))
    return Duplicates(name, len(images), tuple((i, *found[i]) for i in sorted(found)))


def repeated(part: Part, *, files: bool = False) -> Duplicates:
    """The images of `part` that stand in it before, too; for the rest as `find`."""
    name, images = part
    return Duplicates(name, len(images), tuple((i, name, j) for i, j in _equal(images, images, files) if j < i))


def _training(data: DataSet) -> list[Part]:
    return [(name, images) for name, images in (("training", data.train), ("unlabelled", data.unlabeled)) if images is not None]


def _equal(ours: Images, theirs: Images, files: bool) -> list[tuple[int, int]]:
    """(i, the first j) where image i of ours is image j of theirs; in the order of i."""
    if ours.pixels is not None and theirs.pixels is not None:
        return _equal_pixels(ours.pixels.numpy(), theirs.pixels.numpy())
    if files and ours.paths is not None and theirs.paths is not None:
        return _equal_files(ours.paths, theirs.paths)
    return []


def _equal_pixels(ours: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int]]:
    if ours.shape[1:] != theirs.shape[1:]:
        return []
    own_keys, their_keys = _keys(ours), _keys(theirs)
    candidates = np.flatnonzero(np.isin(own_keys, their_keys))
    places: dict[int, list[int]] = {}
    for j in np.flatnonzero(np.isin(their_keys, own_keys[candidates])).tolist():
        places.setdefault(int(their_keys[j]), []).append(j)
    first = ((i, next((j for j in places[int(own_keys[i])] if np.array_equal(ours[i], theirs[j])), None)) for i in candidates.tolist())
    return [(i, j) for i, j in first if j is not None]


def _keys(pixels: np.ndarray) -> np.ndarray:
    """(N,) uint64: equal for equal images, and hardly ever for others (which are compared)."""
    size = pixels[0].size if len(pixels) else 0
    words = -(-size // 8)
    weight = np.random.default_rng(0).integers(1, 2**63, words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.zeros(len(pixels), dtype=np.uint64)
    for first in range(0, len(pixels), _AT_ONCE):
        some = pixels[first : first + _AT_ONCE].reshape(-1, size)
        if size % 8 or not some.flags.c_contiguous:
            padded = np.zeros((len(some), words * 8), dtype=np.uint8)
            padded[:, :size] = some
            some = padded
        keys[first : first + _AT_ONCE] = some.view(np.uint64) @ weight
    return keys


def _equal_files(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    sizes, their_sizes = [os.path.getsize(path) for path in ours], [os.path.getsize(path) for path in theirs]
    common = set(sizes) & set(their_sizes)
    first: dict[tuple[int, bytes], int] = {}
    for j, size in enumerate(their_sizes):
        if size in common:
            first.setdefault((size, _digest(theirs[j])), j)
    keys = ((i, (size, _digest(ours[i]))) for i, size in enumerate(sizes) if size in common)
    return [(i, first[key]) for i, key in keys if key in first]


def _digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()
