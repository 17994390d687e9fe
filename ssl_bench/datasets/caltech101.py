"""Caltech 101 (Fei-Fei et al., 2004) with its background class, from the official archive or TLlib's layout."""
from __future__ import annotations

import os

import numpy as np

from ssl_bench.datasets import image_list
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.fixed_split import fixed_split
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import image_files, visible

TRAIN_PER_CLASS = 30
SPLIT_SEED = 0
BASE = "101_ObjectCategories"
FILES = (
    Remote(
        "caltech-101.zip", ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
        "3138e1922a9193bfa496528edbbc45d0", makes="caltech-101/101_ObjectCategories",
        inner=("caltech-101/101_ObjectCategories.tar.gz",),
    ),
)  # fmt: skip


def load(root: str, download: bool) -> DataSet:
    """3,060 / 6,084 photographs of 102 classes, 30 a class for training.

    The set has no published split, so it is fixed here. Classes are sorted by name regardless of case (as TLlib has
    them: `BACKGROUND_Google` is class 4), images by name; one `RandomState(0)` draws 30 training positions of each
    class, in class order, by `choice` without replacement. Both parts are class by class, in the order of the names.

    `root` holds `101_ObjectCategories` (directly, or in `caltech101` or `caltech-101`), or TLlib's `image_list` and folders,
    whose split then counts.

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a list of TLlib's layout is wrong.
    """
    listed = image_list.load("Caltech101", root, 102)
    if listed is not None:
        return listed
    by_hand = f"put caltech-101.zip (from {os.path.dirname(FILES[0].urls[0])}) or the unpacked folder {BASE} into {root}"
    return read_or_fetch("Caltech101", root, _read, FILES, by_hand, download)


def _read(root: str) -> DataSet:
    places = [os.path.join(root, inner, BASE) for inner in ("", "caltech101", "caltech-101")]
    absent = FileNotFoundError(f"no folder {BASE} there")
    for place in filter(os.path.isdir, places):
        try:
            return _drawn(place)
        except FileNotFoundError as error:
            absent = error
    raise absent


def _drawn(folder: str) -> DataSet:
    classes = sorted(visible(folder)[0], key=str.lower)
    by_class = [image_files(os.path.join(folder, name)) for name in classes]
    scarce = next((name for name, files in zip(classes, by_class, strict=True) if len(files) <= TRAIN_PER_CLASS), None)
    if scarce is not None or not classes:
        raise FileNotFoundError(f"images are missing in {os.path.join(folder, scarce or '')}")
    targets = np.repeat(np.arange(len(classes), dtype=np.int64), list(map(len, by_class)))
    images = Images(targets, paths=tuple(path for files in by_class for path in files))
    train, test = fixed_split(targets, TRAIN_PER_CLASS, SPLIT_SEED)
    return DataSet("Caltech101", tuple(classes), images.take(train), images.take(test))
