"""SVHN, cropped digits (Netzer et al., 2011), read and checked by torchvision; its `extra` part is not used."""
from __future__ import annotations

import os

import numpy as np

from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images


def load(root: str, download: bool) -> DataSet:
    """73,257 / 26,032 images, uint8 (N, 3, 32, 32); the file's label 10 is the digit and the target 0.

    `root` holds `train_32x32.mat` and `test_32x32.mat`.

    Raises:
        FileNotFoundError: files are missing or damaged and `download` is off.
        OSError: the download failed.
        ValueError: scipy is missing.
    """
    from torchvision.datasets import SVHN

    page = os.path.dirname(SVHN.split_list["train"][0])
    by_hand = f"put train_32x32.mat and test_32x32.mat (from {page}) into {root}"
    files = [Remote(name, (url,), md5) for url, name, md5 in map(SVHN.split_list.get, ("train", "test"))]
    return read_or_fetch("SVHN", root, _read, files, by_hand, download)


def _read(root: str) -> DataSet:
    return DataSet("SVHN", tuple(str(digit) for digit in range(10)), _part(root, "train"), _part(root, "test"))


def _part(root: str, split: str) -> Images:
    import torch
    from torchvision.datasets import SVHN

    try:
        part = SVHN(root, split=split)
    # torchvision's word for a file that is missing or has another checksum.
    except RuntimeError:
        raise FileNotFoundError(f"{SVHN.split_list[split][1]} is missing or damaged") from None
    except ImportError as error:
        raise ValueError("SVHN is stored as .mat files, which scipy reads: pip install scipy") from error
    return Images(part.labels.astype(np.int64), torch.from_numpy(np.ascontiguousarray(part.data)))
