"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read and checked by torchvision."""
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images


def load_cifar10(root: str, download: bool) -> DataSet:
    """CIFAR-10: 50,000 / 10,000 images, uint8 (N, 3, 32, 32). See `load_cifar100` for the files and errors."""
    from torchvision.datasets import CIFAR10

    return _load("CIFAR10", CIFAR10, root, download)


def load_cifar100(root: str, download: bool) -> DataSet:
    """CIFAR-100 with its 100 fine classes: 50,000 / 10,000 images, uint8 (N, 3, 32, 32).

    In `root` lies either the folder of the unpacked archive (`cifar-100-python`) or the archive itself. Checksums are
    compared before anything is unpickled.

    Raises:
        FileNotFoundError: files are missing or damaged and `download` is off.
        OSError: the download failed.
    """
    from torchvision.datasets import CIFAR100

    return _load("CIFAR100", CIFAR100, root, download)


def _load(name: str, kind: Any, root: str, download: bool) -> DataSet:
    by_hand = f"put {kind.filename} (from {kind.url}) or its unpacked folder {kind.base_folder} into {root}"
    files = [Remote(kind.filename, (kind.url,), kind.tgz_md5, makes=kind.base_folder)]
    return read_or_fetch(name, root, partial(_read, name, kind), files, by_hand, download)


def _read(name: str, kind: Any, root: str) -> DataSet:
    try:
        train = kind(root, train=True)
    # torchvision's word for files that are missing or have another checksum.
    except RuntimeError:
        raise FileNotFoundError(f"files in {kind.base_folder} are missing or damaged") from None
    test = kind(root, train=False)
    return DataSet(name, tuple(train.classes), _part(train), _part(test))


def _part(part: Any) -> Images:
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)))
    return Images(np.asarray(part.targets, dtype=np.int64), pixels)
