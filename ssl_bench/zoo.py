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

from ssl_bench.datasets import (
    caltech101,
    cifar,
    cub200,
    digits,
    dogs,
    eurosat,
    image_folder,
    imagenet,
    mini_imagenet,
    mnist,
    patch_camelyon,
    photographs,
    resisc45,
    stl10,
    sun397,
    svhn,
)
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
        train, test, unlabeled: number of images; train is None where it depends on the classes a user chose.
        train_per_class, test_per_class: least and most images of a class, where known.
        class_names: the published classes, to name one that is missing.
        remedy: what to do about a wrong count.
        about: what the images show, in one line, for lists.
    """

    read: Callable[[str, bool], DataSet]
    classes: int
    train: int | None
    test: int
    unlabeled: int = 0
    train_per_class: tuple[int, int] | None = None
    test_per_class: tuple[int, int] | None = None
    class_names: Callable[[], list[str]] | None = None
    remedy: str = "compare the folder with docs/datasets.md, or remove the files and fetch them again"
    about: str = ""

    @property
    def summary(self) -> str:
        """Counts and `about`, in one line."""
        train = f"{self.train:,}" if self.train is not None else "some"
        return f"{self.classes} classes, {train}/{self.test:,} images: {self.about}"


_UNPACK = "unpack the archive again"
PUBLISHED = {
    EMBEDDED: Published(
        lambda root, download: digits.load(), classes=10, train=1_297, test=500, train_per_class=(124, 133),
        about="handwritten digits, 8x8, grey; part of scikit-learn",
    ),  # fmt: skip
    "MNIST": Published(mnist.load_mnist, classes=10, train=60_000, test=10_000, about="handwritten digits, 28x28, grey"),
    "FashionMNIST": Published(mnist.load_fashion, classes=10, train=60_000, test=10_000, about="clothes, 28x28, grey"),
    "CIFAR10": Published(cifar.load_cifar10, classes=10, train=50_000, test=10_000, about="animals and vehicles, 32x32"),
    "CIFAR100": Published(cifar.load_cifar100, classes=100, train=50_000, test=10_000, about="animals, plants and things, 32x32"),
    "SVHN": Published(svhn.load, classes=10, train=73_257, test=26_032, about="digits of house numbers, 32x32"),
    "STL10": Published(
        stl10.load, classes=10, train=5_000, test=8_000, unlabeled=100_000,
        about="animals and vehicles, 96x96; 100,000 more without labels",
    ),  # fmt: skip
    "Food101": Published(photographs.load_food101, classes=101, train=75_750, test=25_250, about="dishes"),
    "CUB200": Published(cub200.load, classes=200, train=5_994, test=5_794, about="birds (CUB-200-2011)"),
    "Aircraft": Published(photographs.load_aircraft, classes=100, train=6_667, test=3_333, about="aircraft, by variant"),
    "StanfordCars": Published(photographs.load_cars, classes=196, train=8_144, test=8_041, about="cars, by make, model and year"),
    "SUN397": Published(sun397.load, classes=397, train=19_850, test=19_850, about="scenes, partition 1"),
    "DTD": Published(photographs.load_dtd, classes=47, train=1_880, test=1_880, about="textures, partition 1"),
    "OxfordIIITPets": Published(photographs.load_pets, classes=37, train=3_680, test=3_669, about="breeds of cats and dogs"),
    "OxfordFlowers102": Published(
        photographs.load_flowers, classes=102, train=1_020, test=6_149, unlabeled=1_020,
        about="flowers; the validation part is unlabelled",
    ),  # fmt: skip
    "Caltech101": Published(caltech101.load, classes=102, train=3_060, test=6_084, about="things, animals, and background"),
    "StanfordDogs": Published(
        dogs.load, classes=120, train=12_000, test=8_580, train_per_class=(100, 100),
        about="breeds of dogs, out of ImageNet",
    ),  # fmt: skip
    "EuroSAT": Published(eurosat.load, classes=10, train=21_600, test=5_400, about="land use in satellite images, 64x64"),
    "Resisc45": Published(
        resisc45.load, classes=45, train=25_200, test=6_300, remedy=_UNPACK,
        about="scenes from the air, 256x256 (NWPU)",
    ),  # fmt: skip
    "PatchCamelyon": Published(
        patch_camelyon.load, classes=2, train=262_144, test=32_768,
        about="lymph node tissue with or without tumour, 96x96",
    ),  # fmt: skip
    "ImageNet": Published(
        imagenet.load_imagenet, classes=1_000, train=1_281_167, test=50_000,
        train_per_class=(732, 1_300), test_per_class=(50, 50), class_names=imagenet.wnids, remedy=_UNPACK,
        about="things, animals and plants (ILSVRC 2012)",
    ),  # fmt: skip
    "ImageNet100": Published(
        imagenet.load_imagenet100, classes=100, train=None, test=5_000,
        train_per_class=(732, 1_300), test_per_class=(50, 50), remedy=_UNPACK,
        about="100 classes of ImageNet, which ones your folder says",
    ),  # fmt: skip
    "MiniImageNet": Published(
        mini_imagenet.load, classes=100, train=50_000, test=10_000,
        train_per_class=(500, 500), test_per_class=(100, 100), remedy=_UNPACK,
        about="100 classes of 600 ImageNet images, joined for classification",
    ),  # fmt: skip
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
        return image_folder.load(root or "", skip_broken=skip_broken)
    published = PUBLISHED[name]
    data = published.read(root or "", download)  # only Digits has none, and needs none
    if check_counts:
        _check_counts(data, published, root)
    return data


def _check_counts(data: DataSet, published: Published, root: str | None) -> None:
    what = f"{data.name} in {root}" if root else data.name
    if len(data.classes) != published.classes:
        absent = sorted(set(published.class_names()) - set(data.classes)) if published.class_names else []
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        which = f" (missing: {absent[0]}{more})" if absent else ""
        raise ValueError(f"{what} has {len(data.classes)} classes, {published.classes} were published{which}: {published.remedy}")
    for part, images, per_class in (
        ("training", data.train, published.train_per_class),
        ("test", data.test, published.test_per_class),
    ):
        least, most = per_class or (1, len(images))
        counts = np.bincount(images.targets, minlength=published.classes)
        odd = np.flatnonzero((counts < least) | (counts > most))
        if per_class and len(odd):
            raise ValueError(
                f"{what} has {counts[odd[0]]} {part} images of class {data.classes[odd[0]]}, "
                f"{least if least == most else f'{least} to {most}'} were published: {published.remedy}"
            )
        _check_total(what, part, len(images), published.train if part == "training" else published.test, published.remedy)
        if len(odd):
            raise ValueError(f"{what}: no {part} image of class {data.classes[odd[0]]}")
    _check_total(what, "unlabelled", 0 if data.unlabeled is None else len(data.unlabeled), published.unlabeled, published.remedy)


def _check_total(what: str, part: str, count: int, expected: int | None, remedy: str) -> None:
    if expected is not None and count != expected:
        difference = f"{expected - count} are missing" if count < expected else f"{count - expected} too many"
        raise ValueError(f"{what} has {count} {part} images, {expected} were published ({difference}): {remedy}")


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
