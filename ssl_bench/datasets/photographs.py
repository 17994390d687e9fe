"""Sets of photographs that torchvision reads in their official splits: Food101, Aircraft, StanfordCars, DTD, Pets, Flowers.

Each takes its archives, unpacked or not, where torchvision has them, or TLlib's layout. Only lists are read here; the
images stay files, and none is opened before it is needed.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

import numpy as np

from ssl_bench.datasets import image_list
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import require
from ssl_bench.datasets.map_style import from_torchvision

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
FOOD101 = (
    Remote(
        "food-101.tar.gz", ("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",), "85eeb15f3717b99a5da872d97d918f87",
        makes="food-101",
    ),
)  # fmt: skip
AIRCRAFT = (
    # Its page gives no checksum that could be confirmed elsewhere.
    Remote(
        "fgvc-aircraft-2013b.tar.gz", (f"{_OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",), "",
        makes="fgvc-aircraft-2013b",
    ),
)  # fmt: skip
CARS = (
    Remote("car_devkit.tgz", (), "c3b158d763b6e2245038c8ad08e45376", "stanford_cars", "devkit"),
    Remote("cars_train.tgz", (), "065e5b463ae28d29e77c1b4b166cfe61", "stanford_cars", "cars_train"),
    Remote("cars_test.tgz", (), "4ce7ebf6a94d07f1952d94dd34c4d501", "stanford_cars", "cars_test"),
    Remote("cars_test_annos_withlabels.mat", (), "b0a2b23655a3edd16d84508592a98d10", "stanford_cars"),
)
DTD = (
    Remote("dtd-r1.0.1.tar.gz", (f"{_OXFORD}/dtd/download/dtd-r1.0.1.tar.gz",), "fff73e5086ae6bdbea199a49dfb8a4c1", "dtd", "dtd"),
)
_MIRROR = "https://thor.robots.ox.ac.uk/~vgg/data"
PETS = (
    Remote(
        "images.tar.gz", (f"{_OXFORD}/pets/data/images.tar.gz", f"{_MIRROR}/pets/images.tar.gz"),
        "5c4f3ee8e5d25df40f4fd59a7f44e54c", "oxford-iiit-pet", "images",
    ),
    Remote(
        "annotations.tar.gz", (f"{_OXFORD}/pets/data/annotations.tar.gz", f"{_MIRROR}/pets/annotations.tar.gz"),
        "95a8c909bbe2e81eed6a22bccdf3f68f", "oxford-iiit-pet", "annotations",
    ),
)  # fmt: skip
_FLOWERS = f"{_OXFORD}/flowers/102"
FLOWERS = (
    Remote("102flowers.tgz", (f"{_FLOWERS}/102flowers.tgz",), "52808999861908f626f3c1f4e79d11fa", "flowers-102", "jpg"),
    Remote("imagelabels.mat", (f"{_FLOWERS}/imagelabels.mat",), "e0620be6f572b9609742df49c70aed4d", "flowers-102"),
    Remote("setid.mat", (f"{_FLOWERS}/setid.mat",), "a5357ecc9cb78c4bef273ce3793fc85c", "flowers-102"),
)


def load_food101(root: str, download: bool) -> DataSet:
    """Food-101 (Bossard et al., 2014): 75,750 / 25,250 photographs of 101 dishes.

    `root` holds `food-101` (official), or, as TLlib has it, `train/<class>/` and `test/<class>/`. Images are in the order
    of class and file name in both, so that a split is the same.

    Raises, as all loaders here:
        FileNotFoundError: files are missing and `download` is off, or no host has them any more.
        OSError: the download failed.
        ValueError: a list is wrong, or scipy is missing where lists are .mat files.
    """
    folders = [os.path.join(root, part) for part in ("train", "test")]
    if all(map(os.path.isdir, folders)):
        return _food101_folders(*folders)
    return _load("Food101", root, FOOD101, "food-101", _food101, download)


def load_aircraft(root: str, download: bool) -> DataSet:
    """FGVC-Aircraft (Maji et al., 2013): 6,667 (train and val) / 3,333 photographs of 100 variants."""
    return image_list.load("Aircraft", root, 100) or _load(
        "Aircraft", root, AIRCRAFT, "fgvc-aircraft-2013b", _aircraft, download
    )


def load_cars(root: str, download: bool) -> DataSet:
    """Stanford Cars (Krause et al., 2013): 8,144 / 8,041 photographs of 196 models; its host is gone."""
    return image_list.load("StanfordCars", root, 196) or _load(
        "StanfordCars", root, CARS, "stanford_cars", _cars, download
    )


def load_dtd(root: str, download: bool) -> DataSet:
    """Describable Textures (Cimpoi et al., 2014): 1,880 / 1,880 of 47 textures; partition 1, its validation part unused."""
    return image_list.load("DTD", root, 47) or _load("DTD", root, DTD, "dtd", _dtd, download)


def load_pets(root: str, download: bool) -> DataSet:
    """Oxford-IIIT Pet (Parkhi et al., 2012): 3,680 (train and val) / 3,669 photographs of 37 breeds."""
    return image_list.load("OxfordIIITPets", root, 37) or _load(
        "OxfordIIITPets", root, PETS, "oxford-iiit-pet", _pets, download
    )


def load_flowers(root: str, download: bool) -> DataSet:
    """Oxford Flowers 102 (Nilsback and Zisserman, 2008): 1,020 / 6,149 photographs of 102 flowers.

    As in TLlib, the split is of the 1,020 training images, 10 a class; the 1,020 validation images are further
    unlabelled ones, whose labels only an oracle uses.
    """
    return image_list.load("OxfordFlowers102", root, 102, unlabeled="validation") or _load(
        "OxfordFlowers102", root, FLOWERS, "flowers-102", _flowers, download
    )


def _load(name: str, root: str, files: Sequence[Remote], base: str, make: Callable[[str], DataSet], download: bool) -> DataSet:
    """One of the sets below from torchvision's folder `base`, which `root` holds or is."""
    where = os.path.join(root, files[0].folder) if files[0].folder else root
    pages = sorted({os.path.dirname(file.urls[0]) for file in files if file.urls})
    source = f" (from {', '.join(pages)})" if pages else " (their host is gone: ask those who have them)"
    by_hand = f"put {', '.join(file.name for file in files)}{source}, unpacked or not, into {where}"
    return read_or_fetch(name, root, partial(_read, name, base, make), files, by_hand, download)


def _read(name: str, base: str, make: Callable[[str], DataSet], root: str) -> DataSet:
    parent, inner = os.path.split(os.path.abspath(root))
    absent: FileNotFoundError | None = None
    for place in [root, parent] if inner == base else [root]:
        try:
            data = make(place)
            for part in filter(None, (data.train, data.test, data.unlabeled)):
                require(part.files)
            return data
        except FileNotFoundError as error:
            absent = absent or error
        # torchvision's word for folders that are missing, or small lists with another checksum.
        except RuntimeError:
            absent = absent or FileNotFoundError(f"no whole {base} there")
        except ImportError as error:
            raise ValueError(f"{name} lists its images in .mat files, which scipy reads: pip install scipy") from error
        except (MemoryError, PermissionError):
            raise
        # scipy, fed with a damaged .mat file, raises almost anything.
        except Exception as error:
            what = f"{name}: a list in {os.path.join(place, base)} is damaged"
            raise ValueError(f"{what} ({' '.join(str(error).split())}); unpack the archive again") from error
    raise absent or FileNotFoundError(f"no whole {base} there")


def _food101(root: str) -> DataSet:
    from torchvision.datasets import Food101

    data = from_torchvision("Food101", Food101(root, "train"), Food101(root, "test"))
    return DataSet(data.name, data.classes, _in_order(data.train), _in_order(data.test))


def _in_order(images: Images) -> Images:
    return images.take(np.array(sorted(range(len(images)), key=lambda i: (images.targets[i], images.files[i]))))


def _food101_folders(train: str, test: str) -> DataSet:
    from torchvision.datasets import ImageFolder

    parts = ImageFolder(train), ImageFolder(test)
    if parts[0].classes != parts[1].classes:
        raise ValueError(f"{train} and {test} must have the same class folders; unpack both archives again")
    return from_torchvision("Food101", *parts)


def _aircraft(root: str) -> DataSet:
    from torchvision.datasets import FGVCAircraft

    return from_torchvision("Aircraft", FGVCAircraft(root, "trainval"), FGVCAircraft(root, "test"))


def _cars(root: str) -> DataSet:
    from torchvision.datasets import StanfordCars

    import_module("scipy.io")
    return from_torchvision("StanfordCars", StanfordCars(root, "train"), StanfordCars(root, "test"))


def _dtd(root: str) -> DataSet:
    from torchvision.datasets import DTD

    return from_torchvision("DTD", DTD(root, "train", partition=1), DTD(root, "test", partition=1))


def _pets(root: str) -> DataSet:
    from torchvision.datasets import OxfordIIITPet

    return from_torchvision("OxfordIIITPets", OxfordIIITPet(root, "trainval"), OxfordIIITPet(root, "test"))


def _flowers(root: str) -> DataSet:
    from torchvision.datasets import Flowers102

    import_module("scipy.io")
    return from_torchvision("OxfordFlowers102", *(Flowers102(root, part) for part in ("train", "test", "val")))

