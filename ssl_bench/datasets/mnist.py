"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017) from idx files, packed with gzip or not."""
from __future__ import annotations

import gzip
import math
import os
import zlib
from functools import partial

import numpy as np

from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images

LARGEST = 2**28
"""Bytes that an idx file may hold, unpacked; MNIST's largest holds 47 million."""
_DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load_mnist(root: str, download: bool) -> DataSet:
    """MNIST: 60,000 / 10,000 grey images, uint8 (N, 1, 28, 28). See `load_fashion` for the files and errors."""
    return _load("MNIST", _DIGITS, root, download)


def load_fashion(root: str, download: bool) -> DataSet:
    """Fashion-MNIST: 60,000 / 10,000 grey images, uint8 (N, 1, 28, 28).

    The four idx files, each with or without `.gz`, may lie in `root`, `root/raw`, `root/FashionMNIST` or
    `root/FashionMNIST/raw` (where torchvision puts them).

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a file is no idx file, or cut short.
    """
    return _load("FashionMNIST", _CLOTHES, root, download)


def read_idx(path: str) -> np.ndarray:
    """A uint8 array of the shape its header states, from an idx file or one packed with gzip.

    Format: two zero bytes, the type (8 = uint8), the number of dimensions, each dimension as big-endian uint32, data.

    Raises:
        ValueError: not such a file, or its length differs from its header.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            content = file.read(LARGEST + 1)  # what is packed may be a bomb
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    if len(content) > LARGEST:
        raise ValueError(f"{path} is no set of small images: it holds more than {LARGEST:,} bytes; fetch it again")
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is not an idx file of bytes: fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], 4))
    start = 4 + 4 * len(shape)
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path} is damaged: {len(content) - start} bytes of data, {math.prod(shape)} by its header")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _load(name: str, classes: tuple[str, ...], root: str, download: bool) -> DataSet:
    by_hand = (
        "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
        f"(or these with .gz) into {os.path.join(root, name, 'raw')}"
    )
    return read_or_fetch(name, root, partial(_read, name, classes), _files(name), by_hand, download)


def _files(name: str) -> list[Remote]:
    import torchvision

    kind = {"MNIST": torchvision.datasets.MNIST, "FashionMNIST": torchvision.datasets.FashionMNIST}[name]
    folder = os.path.join(name, "raw")
    return [Remote(file, tuple(mirror + file for mirror in kind.mirrors), md5, folder) for file, md5 in kind.resources]


def _read(name: str, classes: tuple[str, ...], root: str) -> DataSet:
    places = [root, os.path.join(root, "raw"), os.path.join(root, name), os.path.join(root, name, "raw")]
    for folder in places:
        files = [_file(folder, stem) for stem in ("train-images", "train-labels", "t10k-images", "t10k-labels")]
        there = [file for file in files if file is not None]
        if len(there) == len(files):
            return DataSet(name, classes, _part(there[0], there[1]), _part(there[2], there[3]))
    raise FileNotFoundError("no folder there with the four idx files")


def _file(folder: str, stem: str) -> str | None:
    kind = "idx3-ubyte" if stem.endswith("images") else "idx1-ubyte"
    # Some mirrors write a dot before "idx".
    for name in (f"{stem}-{kind}", f"{stem}-{kind}.gz", f"{stem}.{kind}", f"{stem}.{kind}.gz"):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return None


def _part(images: str, labels: str) -> Images:
    import torch

    pixels, targets = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or targets.ndim != 1 or len(pixels) != len(targets):
        raise ValueError(f"{images} {pixels.shape} and {labels} {targets.shape} do not belong together")
    return Images(targets.astype(np.int64), torch.from_numpy(pixels)[:, None])
