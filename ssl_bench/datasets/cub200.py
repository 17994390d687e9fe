"""CUB-200-2011 (Wah et al., 2011): 200 bird species, from the official archive or TLlib's layout."""
from __future__ import annotations

import os

import numpy as np

from ssl_bench.datasets import image_list
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import require

BASE = "CUB_200_2011"
FILES = (
    Remote(
        "CUB_200_2011.tgz", ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",),
        "97eceeb196236b17998738112f37df78", makes=BASE,
    ),
)  # fmt: skip


def load(root: str, download: bool) -> DataSet:
    """5,994 / 5,794 photographs in the published split, in the order of the archive's `images.txt`.

    `root` holds (or is) `CUB_200_2011`, or holds TLlib's `image_list` and folders.

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a list is damaged.
    """
    listed = image_list.load("CUB200", root, 200)
    if listed is not None:
        return listed
    by_hand = f"put {FILES[0].name} (from {os.path.dirname(FILES[0].urls[0])}) or its unpacked folder {BASE} into {root}"
    return read_or_fetch("CUB200", root, _read, FILES, by_hand, download)


def _read(root: str) -> DataSet:
    inner = os.path.join(root, BASE)
    folder = root if os.path.isfile(os.path.join(root, "images.txt")) and not os.path.isdir(inner) else inner
    files = _table(folder, "images.txt")
    targets = _table(folder, "image_class_labels.txt")
    is_train = _table(folder, "train_test_split.txt")
    classes = _table(folder, "classes.txt")
    try:
        paths = tuple(os.path.join(folder, "images", *name.split("/")) for name in files.values())
        images = Images(np.array([int(targets[i]) - 1 for i in files], dtype=np.int64), paths=paths)
        train = np.array([int(is_train[i]) for i in files]) == 1
    except (KeyError, ValueError) as error:
        raise ValueError(f"the lists in {folder} do not belong together ({error}); unpack the archive again") from error
    require(paths)
    return DataSet("CUB200", tuple(classes.values()), images.take(np.flatnonzero(train)), images.take(np.flatnonzero(~train)))


def _table(folder: str, name: str) -> dict[str, str]:
    """Lines `id value` of a list: id -> value, in its order."""
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        rows = [line.split() for line in file if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"{os.path.join(folder, name)} is damaged: a line is not 'id value'; unpack the archive again")
    return dict(rows)
