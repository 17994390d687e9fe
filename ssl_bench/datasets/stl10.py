"""STL-10 (Coates, Lee and Ng, 2011) from its binary files, with the 100,000 unlabelled images."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images

if TYPE_CHECKING:
    import torch

SIZE = 96
FOLDER = "stl10_binary"
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def load(root: str, download: bool) -> DataSet:
    """5,000 / 8,000 labelled and 100,000 unlabelled images, uint8 (N, 3, 96, 96): 3.1 GB of memory.

    In `root` lies either the folder of the unpacked archive, `stl10_binary`, or the archive itself. The binary files
    are read here: torchvision would compute the checksums of all 3 GB once for each of the three parts.

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a file is cut short.
    """
    from torchvision.datasets import STL10

    by_hand = f"put {STL10.filename} (from {STL10.url}) or its unpacked folder {FOLDER} into {root}"
    files = [Remote(STL10.filename, (STL10.url,), STL10.tgz_md5, makes=FOLDER)]
    return read_or_fetch("STL10", root, _read, files, by_hand, download)


def _read(root: str) -> DataSet:
    folder = os.path.join(root, FOLDER)
    names = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin")
    paths = [os.path.join(folder, name) for name in names]
    if not all(map(os.path.isfile, paths)):
        absent = ", ".join(name for name, path in zip(names, paths, strict=True) if not os.path.isfile(path))
        raise FileNotFoundError(f"no {absent} in {FOLDER}")
    train_x, train_y, test_x, test_y, unlabeled_x = paths
    unlabeled = _pixels(unlabeled_x)
    return DataSet(
        "STL10",
        CLASSES,
        train=_labelled(train_x, train_y),
        test=_labelled(test_x, test_y),
        unlabeled=Images(np.full(len(unlabeled), -1, dtype=np.int64), _tensor(unlabeled)),
    )


def _labelled(images: str, labels: str) -> Images:
    # Labels are stored as 1..10.
    return Images(np.fromfile(labels, dtype=np.uint8).astype(np.int64) - 1, _tensor(_pixels(images)))


def _pixels(path: str) -> np.ndarray:
    """uint8 (N, 3, 96, 96) from a file that stores each channel column by column."""
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) % (3 * SIZE * SIZE):
        raise ValueError(f"{path} is cut short: {len(content)} bytes are no whole number of images; unpack it again")
    pixels = content.reshape(-1, 3, SIZE, SIZE)
    # In place and by blocks, because a second copy of the unlabelled part would take another 2.8 GB.
    for start in range(0, len(pixels), 1000):
        block = pixels[start : start + 1000]
        block[:] = block.transpose(0, 1, 3, 2).copy()
    return pixels


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(pixels)
