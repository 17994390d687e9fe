"""Stanford Dogs (Khosla et al., 2011): 120 breeds, ImageNet images, with its official lists."""
from __future__ import annotations

import os
from pathlib import PurePosixPath

import numpy as np

from ssl_bench.datasets import image_list
from ssl_bench.datasets.class_folders import by_class
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images

PAGE = "http://vision.stanford.edu/aditya86/ImageNetDogs"
LISTS = ("train_list.mat", "test_list.mat")
FOLDER = "Images"
FILES = (
    # The page gives no checksums.
    Remote("lists.tar", (f"{PAGE}/lists.tar",), "", makes=LISTS[0]),
    Remote("images.tar", (f"{PAGE}/images.tar",), "", makes=FOLDER),
)


def load(root: str, download: bool) -> DataSet:
    """12,000 / 8,580 images, as files; 100 of each class for training.

    In `root` lie the two archives, or what they hold: `Images/<class>/*.jpg`, `train_list.mat` and `test_list.mat` (these may
    also lie in `lists/`); or TLlib's layout, see `image_list`. Classes are the folders (`n02085620-Chihuahua`) in the order
    of the lists' labels 1..120. No checksums were published: instead every file of the lists must be there.

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a list is damaged, or scipy is missing.
    """
    by_hand = f"put lists.tar and images.tar (from {PAGE}), or what they hold, into {root}"
    return image_list.load("StanfordDogs", root, 120) or read_or_fetch("StanfordDogs", root, _read, FILES, by_hand, download)


def _read(root: str) -> DataSet:
    lists = [_list(root, name) for name in LISTS]
    if not os.path.isdir(os.path.join(root, FOLDER)):
        raise FileNotFoundError(f"no {FOLDER}")
    there = {path for files in by_class(os.path.join(root, FOLDER)).values() for path in files}
    parts: list[Images] = []
    folders: dict[int, str] = {}
    for names, targets in lists:
        paths = [os.path.join(root, FOLDER, *PurePosixPath(name).parts) for name in names]
        absent = [path for path in paths if path not in there]
        if absent:
            raise FileNotFoundError(f"{len(absent)} of the {len(paths)} files of a list are missing, the first is {absent[0]}")
        folders |= dict(zip(targets.tolist(), (PurePosixPath(name).parts[0] for name in names), strict=True))
        parts.append(Images(targets, paths=tuple(paths)))
    if sorted(folders) != list(range(len(folders))):
        raise ValueError(f"StanfordDogs: the lists' labels are not 1..{len(folders)}: unpack lists.tar again")
    return DataSet("StanfordDogs", tuple(folders[label] for label in range(len(folders))), parts[0], parts[1])


def _list(root: str, name: str) -> tuple[list[str], np.ndarray]:
    """(N file names below `Images`, N labels from 0 on) of one list."""
    path = next((path for path in (os.path.join(root, name), os.path.join(root, "lists", name)) if os.path.isfile(path)), None)
    if path is None:
        raise FileNotFoundError(f"no {name}")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError("StanfordDogs' lists are .mat files, which scipy reads: pip install scipy") from error
    try:
        content = loadmat(path, variable_names=("file_list", "labels"))
        names = [str(np.ravel(cell)[0]) for cell in content["file_list"].ravel()]
        targets = content["labels"].ravel().astype(np.int64) - 1
    except MemoryError:
        raise
    # For bytes that are no .mat file scipy raises almost anything (MatReadError, zlib.error, KeyError, TypeError ...).
    except Exception as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}): unpack lists.tar again") from error
    if len(names) != len(targets):
        raise ValueError(f"{path} is damaged ({len(names)} names, {len(targets)} labels): unpack lists.tar again")
    return names, targets
