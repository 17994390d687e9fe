"""TLlib's layout of a set: `image_list/train.txt` and the like, a line `relative/path label` an image."""
from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import absent

FOLDER = "image_list"
_TRAIN = ("train_100.txt", "train.txt")  # fine-grained sets also have lists of 15, 30 and 50 percent


def load(name: str, folder: str, classes: int, *, unlabeled: str | None = None, also_below: str | None = None) -> DataSet | None:
    """A set in TLlib's layout, or None where there is no `image_list` in `folder`.

    The order of the lists is kept, so that the labelled split is TLlib's. Classes are named by the folders that their
    images lie in, if each has one of its own, otherwise by number.

    Args:
        name: of the set.
        folder: holds `image_list` and what its lines start with.
        classes: number of classes; labels are 0 .. classes - 1.
        unlabeled: list whose images are further unlabelled ones, with their labels hidden.
        also_below: a second folder that the lines may start from.

    Raises:
        ValueError: a list is missing or empty, a line is wrong (see `read_list`).
    """
    lists = os.path.join(folder, FOLDER)
    if not os.path.isdir(lists):
        return None
    bases = [folder] if also_below is None else [folder, also_below]
    train, test = (read_list(_first(lists, names), bases, classes) for names in (_TRAIN, ("test.txt",)))
    further = read_list(_first(lists, (f"{unlabeled}.txt",)), bases, classes) if unlabeled else None
    return DataSet(name, _class_names(train, classes), train, test, further)


def read_list(path: str, folders: Sequence[str], classes: int) -> Images:
    """The images a list file names, in its order. They are not opened, but each must exist.

    A line is the image's path below one of `folders` (it may contain spaces), white space, and the label. Empty lines
    count for nothing.

    Args:
        path: the list file, UTF-8.
        folders: the lines start from the first of these that holds the first image.
        classes: labels are 0 .. classes - 1.

    Raises:
        ValueError: no file, no lines, no label, a label outside, a path that leaves the folder, an image that is missing;
            one line that names the list, the line in it, and the remedy.
    """
    try:
        # Names of files need not be UTF-8; such bytes come back in the path.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); put TLlib's list there") from None
    if not lines:
        raise ValueError(f"{path} is empty; put TLlib's list there")
    names, targets = zip(*(_parsed(path, number, line, classes) for number, line in lines), strict=True)
    folder = next((folder for folder in folders if os.path.lexists(os.path.join(folder, names[0]))), folders[0])
    files = [os.path.join(folder, name) for name in names]
    if missing := absent(files):
        first = missing[0]
        others = f", nor those of {len(missing) - 1} other lines" if len(missing) > 1 else ""
        raise ValueError(f"{path}, line {lines[first][0]}: no file {files[first]}{others}; unpack the images, or remove the line")
    return Images(np.array(targets, dtype=np.int64), paths=tuple(files))


def _parsed(path: str, number: int, line: str, classes: int) -> tuple[str, int]:
    name, _, label = line.replace("\t", " ").rpartition(" ")
    name = name.rstrip()
    where = f"{path}, line {number}"
    if not name:
        raise ValueError(f"{where}: {line!r} is not 'relative/path label'; write both, with a space between them")
    if not (label.isascii() and label.isdigit() and int(label) < classes):
        raise ValueError(f"{where}: label {label!r} is not one of 0..{classes - 1}; correct it, or take the set's own list")
    if os.path.isabs(name) or ".." in name.split("/"):
        raise ValueError(f"{where}: {name!r} leaves the folder of the set; write the path relative to it, without '..'")
    return name, int(label)


def _first(folder: str, names: Sequence[str]) -> str:
    found = next((name for name in names if os.path.isfile(os.path.join(folder, name))), None)
    if found is None:
        raise ValueError(f"{folder} holds no {' or '.join(names)}; put TLlib's list there, or remove the folder")
    return os.path.join(folder, found)


def _class_names(images: Images, classes: int) -> tuple[str, ...]:
    held: list[set[str]] = [set() for _ in range(classes)]
    for target, path in zip(images.targets.tolist(), images.files, strict=True):
        held[target].add(os.path.basename(os.path.dirname(path)))
    names = [names.pop() for names in held if len(names) == 1]
    return tuple(names) if len(set(names)) == classes else tuple(map(str, range(classes)))
