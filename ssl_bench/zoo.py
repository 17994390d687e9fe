"""The data sets by name: what `-d NAME` means, and whether what was loaded is what was published.

Importing this module, and listing the names, loads neither torch nor torchvision.
"""
from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssl_bench.datasets import cifar, digits, image_folder, mnist, stl10, svhn
from ssl_bench.datasets.images import DataSet
from ssl_bench.datasets.map_style import from_torchvision

__all__ = ["PUBLISHED", "Published", "check_name", "from_torchvision", "load", "names"]

EMBEDDED = "Digits"
FOLDER = "ImageFolder"


@dataclass(frozen=True)
class Published:
    """A set everyone has the same copy of: how to read it, and its published counts.

    Attributes:
        read: (root, whether a download is allowed) -> DataSet.
        classes: number of classes, each of which occurs in train and in test.
        train, test, unlabeled: number of images.
        about: what the images show, in one line, for lists.
    """

    read: Callable[[str, bool], DataSet]
    classes: int
    train: int
    test: int
    unlabeled: int = 0
    about: str = ""


PUBLISHED = {
    EMBEDDED: Published(lambda root, download: digits.load(), classes=10, train=1_297, test=500),
    "MNIST": Published(mnist.load_mnist, classes=10, train=60_000, test=10_000),
    "FashionMNIST": Published(mnist.load_fashion, classes=10, train=60_000, test=10_000),
    "CIFAR10": Published(cifar.load_cifar10, classes=10, train=50_000, test=10_000),
    "CIFAR100": Published(cifar.load_cifar100, classes=100, train=50_000, test=10_000),
    "SVHN": Published(svhn.load, classes=10, train=73_257, test=26_032),
    "STL10": Published(stl10.load, classes=10, train=5_000, test=8_000, unlabeled=100_000),
}


def names() -> list[str]:
    """The names `load` knows, in the order to show them; besides these it takes `package.module:Name`."""
    return [*PUBLISHED, FOLDER]


def check_name(name: str) -> None:
    """Accept a known name or the form `package.module:Name`, without importing or reading anything.

    Raises:
        ValueError: neither; the message has the nearest known name.
    """
    if name in names():
        return
    module, colon, attribute = name.partition(":")
    if colon:
        if attribute.isidentifier() and all(part.isidentifier() for part in module.split(".")):
            return
        raise ValueError(f"data set {name!r} is not of the form package.module:Name")
    by_lower = {known.lower(): known for known in names()}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"; did you mean {by_lower[near[0]]}?" if near else ";"
    raise ValueError(f"unknown data set {name!r}{hint} known: {', '.join(names())}, or package.module:Name")


def load(
    name: str,
    root: str | None,
    *,
    download: bool = True,
    skip_broken: bool = False,
    check_counts: bool = True,
) -> DataSet:
    """Load a data set.

    Args:
        name: one of `names()`, or `package.module:Name`, where `Name(root)` returns a `DataSet` (`from_torchvision`
            makes one).
        root: folder of the data (`~` is the home folder); not needed for `Digits`.
        download: fetch a published set that is not in `root`.
        skip_broken: `ImageFolder` only: leave out files that cannot be decoded; they are listed in `DataSet.broken`.
        check_counts: compare a published set with its published counts; off only for miniatures in tests.

    Raises:
        ValueError: unknown name, no root, a wrong layout, count or content.
        OSError: files are missing, or the download failed.
    """
    check_name(name)
    if root is not None:
        root = os.path.expanduser(root)
    if ":" in name:
        return _load_users_own(name, root)
    if root is None and name != EMBEDDED:
        raise ValueError(f"{name} needs a root folder, as in: data/{name.lower()} -d {name}")
    if name == FOLDER:
        return image_folder.load(root, skip_broken=skip_broken)
    published = PUBLISHED[name]
    data = published.read(root, download)
    if check_counts:
        _check_counts(data, published, root)
    return data


def _check_counts(data: DataSet, published: Published, root: str | None) -> None:
    where = f" in {root}" if root else ""
    if len(data.classes) != published.classes:
        raise ValueError(f"{data.name}{where} has {len(data.classes)} classes, {published.classes} were published")
    for part, images, expected in (
        ("training", data.train, published.train),
        ("test", data.test, published.test),
        ("unlabelled", data.unlabeled, published.unlabeled),
    ):
        count = 0 if images is None else len(images)
        if count != expected:
            difference = f"{expected - count} are missing" if count < expected else f"{count - expected} too many"
            raise ValueError(
                f"{data.name}{where} has {count} {part} images, {expected} were published ({difference}): "
                "remove the files and fetch them again"
            )
        if expected and part != "unlabelled":
            absent = np.flatnonzero(np.bincount(images.targets, minlength=published.classes) == 0)
            if len(absent):
                raise ValueError(f"{data.name}{where}: no {part} image of class {data.classes[absent[0]]}")


def _load_users_own(name: str, root: str | None) -> DataSet:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # An import that fails inside the user's module is a bug there and keeps its own message.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"data set {name!r}: no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from error
    make = getattr(module, attribute, None)
    if not callable(make):
        raise ValueError(f"data set {name!r}: {module_name} has no callable {attribute!r}")
    data = make(root)
    if not isinstance(data, DataSet):
        raise ValueError(f"data set {name!r}: {attribute}(root) returned {type(data).__name__}, expected a DataSet")
    return data
