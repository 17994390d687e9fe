"""Mini-ImageNet (Vinyals et al., 2016): 100 classes of 600 ImageNet images, often 84x84; placed by hand."""
from __future__ import annotations

import csv
import os

from ssl_bench.datasets.by_hand import read_placed
from ssl_bench.datasets.class_folders import by_class, one_pile, two_parts
from ssl_bench.datasets.images import DataSet
from ssl_bench.datasets.listing import visible

NAME = "MiniImageNet"
_PARTS = ("train", "val", "test")
_LISTS = tuple(f"{part}.csv" for part in _PARTS)


def load(root: str, download: bool) -> DataSet:
    """50,000 / 10,000 images, 500 and 100 of each class, as files.

    Made for few-shot learning, Mini-ImageNet comes split by *class* (64, 16, 20). For classification all 100 classes are joined,
    and 500 images of each drawn for training by `fixed_split` with its default seed, from the sorted file names. Layouts:

    * `images/` with Ravi and Larochelle's `train.csv`, `val.csv` and `test.csv` (`filename,label`);
    * `train/`, `val/`, `test/` with a folder for each of *their* classes, or one folder with all 100 in `root`;
    * already split: `train/` and `test/` (or `val/`) with the same 100 class folders; that split is used.

    Raises:
        FileNotFoundError: none of them is there, or files of a list are missing.
        ValueError: the parts share some classes only, a class has too few images, or a list is none.
    """
    how = (
        f"put train/ and test/ with the same 100 class folders into {root}, or train/, val/ and test/ of the few-shot split, "
        f"or its images/ with {', '.join(_LISTS)}"
    )
    return read_placed(NAME, root, _read, how)


def _read(root: str) -> DataSet:
    if not os.path.isdir(root):
        raise FileNotFoundError("no such folder")
    folders, _ = visible(root)
    if "images" in folders and all(os.path.isfile(os.path.join(root, name)) for name in _LISTS):
        return one_pile(NAME, _from_lists(root), 5, 6)
    if "train" in folders:
        return _from_parts({part: by_class(os.path.join(root, part)) for part in _PARTS if part in folders})
    if "images" in folders or len(folders) < 2:
        raise FileNotFoundError(f"no train/{', and images/ without its lists' if 'images' in folders else ''}")
    return one_pile(NAME, by_class(root), 5, 6)


def _from_parts(parts: dict[str, dict[str, list[str]]]) -> DataSet:
    others = [part for part in ("test", "val") if part in parts]
    if not others:
        raise FileNotFoundError("train/ but no test/ or val/")
    if set(parts["train"]) & set(parts[others[0]]):
        return two_parts(NAME, parts["train"], parts[others[0]])
    joined = {name: files for part in parts.values() for name, files in part.items()}
    if len(joined) < sum(map(len, parts.values())):
        raise ValueError(f"{NAME}: two of {', '.join(parts)} share some classes: unpack the archive again")
    return one_pile(NAME, joined, 5, 6)


def _from_lists(root: str) -> dict[str, list[str]]:
    there = set(visible(os.path.join(root, "images"))[1])
    found: dict[str, list[str]] = {}
    absent = []
    for name in _LISTS:
        path = os.path.join(root, name)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
        except (KeyError, ValueError, csv.Error) as error:
            raise ValueError(f"{path} is no list with the columns filename,label: fetch it again") from error
        absent += [image for image, _ in rows if image not in there]
        for image, label in rows:
            found.setdefault(label, []).append(os.path.join(root, "images", image))
    if absent:
        raise FileNotFoundError(f"{len(absent)} files of the lists are not in images/, the first is {absent[0]}")
    return {label: sorted(files) for label, files in found.items()}
