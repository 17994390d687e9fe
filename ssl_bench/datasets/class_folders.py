"""Published sets as they lie on a disk: one folder a class, the images directly in it."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from ssl_bench.datasets.fixed_split import fixed_split
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import visible


def by_class(folder: str) -> dict[str, list[str]]:
    """Class folder -> its image files, with their folders; both sorted. Deeper folders, hidden and other files are passed by."""
    classes, _ = visible(folder)
    found = {}
    for name in classes:
        inner = os.path.join(folder, name)
        found[name] = [os.path.join(inner, file) for file in visible(inner)[1]]
    return found


def images_of(classes: Sequence[str], files: Mapping[str, Sequence[str]]) -> Images:
    """The files of all classes as one part, class by class; a class that `files` lacks has no image."""
    lists = [files.get(name, ()) for name in classes]
    targets = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in lists])
    return Images(targets, paths=tuple(chain.from_iterable(lists)))


def two_parts(name: str, train: Mapping[str, Sequence[str]], test: Mapping[str, Sequence[str]]) -> DataSet:
    """A set that lies there split.

    Raises:
        ValueError: the parts have other classes.
    """
    check_same_classes(name, train, test)
    classes = tuple(sorted(train))
    return DataSet(name, classes, images_of(classes, train), images_of(classes, test))


def one_pile(name: str, files: Mapping[str, Sequence[str]], numerator: int, denominator: int) -> DataSet:
    """A set without a split: `fixed_split` draws numerator / denominator of each class, rounded down, for training.

    Raises:
        ValueError: a class has too few images for both parts.
    """
    classes = tuple(sorted(files))
    whole = images_of(classes, files)
    counts = np.bincount(whole.targets, minlength=len(classes))
    if counts.min() < denominator:
        scarce = int(counts.argmin())
        raise ValueError(f"{name}: class {classes[scarce]} has {counts[scarce]} images: unpack the archive again")
    train, test = fixed_split(whole.targets, counts * numerator // denominator)
    return DataSet(name, classes, whole.take(train), whole.take(test))


def check_same_classes(name: str, train: Mapping[str, object], test: Mapping[str, object]) -> None:
    """ValueError that names a class which one of the parts lacks."""
    for here, there, part in ((train, test, "test"), (test, train, "training")):
        absent = sorted(set(here) - set(there))
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise ValueError(f"{name}: the {part} part has no class folder {absent[0]}{more}: unpack the archive again")
