"""SUN397 (Xiao et al., 2010): 397 kinds of scenes, partition 1, from the official archives or TLlib's layout."""
from __future__ import annotations

import os

import numpy as np

from ssl_bench.datasets import image_list
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import require

BASE, LISTS = "SUN397", "Partitions"
_PAGE = "vision.princeton.edu/projects/2010/SUN"
FILES = (
    # 39 GB, of which partition 1 is two fifths.
    Remote(
        "SUN397.tar.gz", (f"https://{_PAGE}/SUN397.tar.gz", f"http://{_PAGE}/SUN397.tar.gz"),
        "8ca2778205c41d23104230ba66911c7a", makes=BASE,
    ),
    Remote(
        "Partitions.zip", (f"https://{_PAGE}/download/Partitions.zip", f"http://{_PAGE}/download/Partitions.zip"),
        "e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9", LISTS, "Training_01.txt",
    ),
)  # fmt: skip


def load(root: str, download: bool) -> DataSet:
    """19,850 / 19,850 photographs, 50 a class in each part, in the order of the lists; classes are sorted by name.

    `root` holds `SUN397` (all 108,754 images) and, in `Partitions`, in `SUN397` or directly, `Training_01.txt` and
    `Testing_01.txt`; or TLlib's lists in `SUN397/image_list`.

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a list is damaged.
    """
    listed = image_list.load("SUN397", os.path.join(root, BASE), 397, also_below=root)
    if listed is not None:
        return listed
    by_hand = (
        f"put SUN397.tar.gz and Partitions.zip (from https://{_PAGE}/ and its folder download) into {root}, "
        f"or the unpacked folder {BASE} and the lists Training_01.txt and Testing_01.txt"
    )
    return read_or_fetch("SUN397", root, _read, FILES, by_hand, download)


def _read(root: str) -> DataSet:
    folder = os.path.join(root, BASE)
    places = [os.path.join(root, LISTS), folder, root]
    lists = next((place for place in places if os.path.isfile(os.path.join(place, "Training_01.txt"))), places[0])
    train, test = (_names(os.path.join(lists, name)) for name in ("Training_01.txt", "Testing_01.txt"))
    classes = sorted({_class(name) for name in train})
    if unknown := sorted({_class(name) for name in test} - set(classes)):
        raise ValueError(f"Training_01.txt in {lists} lacks class {unknown[0]} of Testing_01.txt; unpack Partitions.zip again")
    number = {name: target for target, name in enumerate(classes)}
    parts = []
    for names in (train, test):
        paths = tuple(folder + name.replace("/", os.sep) for name in names)
        require(paths)
        parts.append(Images(np.array([number[_class(name)] for name in names], dtype=np.int64), paths=paths))
    return DataSet("SUN397", tuple(name[3:] for name in classes), parts[0], parts[1])


def _names(path: str) -> list[str]:
    """Lines such as `/a/airport/entrance/sun_x.jpg`."""
    with open(path, encoding="utf-8") as file:
        names = [line.strip() for line in file if line.strip()]
    wrong = next((name for name in names if name.count("/") < 3 or not name.startswith("/") or ".." in name.split("/")), None)
    if wrong is not None or not names:
        raise ValueError(f"{path} is damaged: {wrong!r} is not '/letter/class/image'; unpack Partitions.zip again")
    return names


def _class(name: str) -> str:
    return name.rpartition("/")[0]
