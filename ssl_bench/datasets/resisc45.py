"""NWPU-RESISC45 (Cheng, Han and Lu, 2017): 45 classes of 700 aerial images, 256x256; placed by hand."""
from __future__ import annotations

import os

from ssl_bench.datasets.by_hand import read_placed
from ssl_bench.datasets.class_folders import by_class, one_pile, two_parts
from ssl_bench.datasets.images import DataSet
from ssl_bench.datasets.listing import visible

FOLDER = "NWPU-RESISC45"
PAGE = "https://gcheng-nwpu.github.io"


def load(root: str, download: bool) -> DataSet:
    """25,200 / 6,300 images, as files. Never downloaded: the archive is a .rar behind a page.

    Two layouts:

    * `train/<class>/*` and `test/<class>/*`, as TLlib asks for: that split is used, each image with the label of its folder
      (TLlib shuffled the images but not their labels).
    * one folder a class, in `NWPU-RESISC45/` or directly in `root`, as the archive unpacks: there is no official split, so
      560 of 700 images of each class are drawn by `fixed_split` with its default seed, from the sorted file names.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: the two parts have other classes, or a class has too few images.
    """
    airport = os.path.join(root, FOLDER, "airport")
    how = f"unpack {FOLDER}.rar (linked from {PAGE}) into {root}, so that {airport} is a class folder"
    return read_placed("Resisc45", root, _read, how)


def _read(root: str) -> DataSet:
    if not os.path.isdir(root):
        raise FileNotFoundError("no such folder")
    folders, _ = visible(root)
    if "train" in folders and "test" in folders:
        return two_parts("Resisc45", by_class(os.path.join(root, "train")), by_class(os.path.join(root, "test")))
    for folder in (os.path.join(root, FOLDER), root):
        if os.path.isdir(os.path.join(folder, "airport")):
            return one_pile("Resisc45", by_class(folder), 4, 5)
    packed = f", only {FOLDER}.rar, which is not unpacked here" if os.path.isfile(os.path.join(root, f"{FOLDER}.rar")) else ""
    raise FileNotFoundError(f"neither train/ and test/ nor class folders{packed}")
