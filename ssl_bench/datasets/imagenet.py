"""ImageNet (ILSVRC 2012) and subsets of 100 of its classes, from folders that their users have; never downloaded."""
from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ssl_bench.datasets.by_hand import read_placed
from ssl_bench.datasets.class_folders import check_same_classes, images_of
from ssl_bench.datasets.folder_index import listed
from ssl_bench.datasets.imagenet_val import sorted_into_classes
from ssl_bench.datasets.images import DataSet
from ssl_bench.datasets.listing import visible

SUBSET_LIST = "imagenet100.txt"
_PLACES = ("", os.path.join("ILSVRC", "Data", "CLS-LOC"))  # the root itself, and inside Kaggle's archive
_TEST = ("val", "validation", "val.X")
_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_WNID = re.compile(r"n\d{8}\b")


@dataclass(frozen=True)
class _Layout:
    """Training folder of each wnid; test folder of each, or test files of each where they lie in one folder."""

    train: dict[str, str]
    test_folders: dict[str, str]
    test_files: dict[str, list[str]]

    @property
    def test(self) -> dict[str, str] | dict[str, list[str]]:
        return self.test_folders or self.test_files


def load_imagenet(root: str, download: bool) -> DataSet:
    """1,281,167 / 50,000 images, as files; classes are the wnids, sorted (torchvision's and timm's order).

    `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG` (or `validation/`) lie in `root`, or in `root/ILSVRC/Data/CLS-LOC`, as in
    Kaggle's archive. Images directly in `val/` are sorted by the devkit's or Kaggle's list, see `imagenet_val`. The file names
    are remembered, see `folder_index`: only the first start lists all folders.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: the parts have other classes.
    """
    return read_placed("ImageNet", root, _read_imagenet, _how(root))


def load_imagenet100(root: str, download: bool) -> DataSet:
    """100 classes of ImageNet: 50 test images each, 732 to 1,300 for training, as files.

    There are several such subsets, so the classes come from your folder: either `root` is one of ImageNet and holds a file
    `imagenet100.txt` with a wnid at the beginning of each of 100 lines, or `train/` has 100 class folders (it may also be
    spread over `train.X1` ... `train.X4`, with `val.X`, as on Kaggle). Everything else as `load_imagenet`.

    Raises:
        FileNotFoundError: a part, or a class of the list, is missing.
        ValueError: the list is none, or there is none and the folder has more classes than 100.
    """
    how = f"{_how(root)}; the 100 classes are those in train/, or a list of wnids in {os.path.join(root, SUBSET_LIST)}"
    return read_placed("ImageNet100", root, _read_imagenet100, how)


def _how(root: str) -> str:
    return f"put train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (from image-net.org, where its terms are accepted) into {root}"


def wnids() -> list[str]:
    """The 1,000 published classes, sorted."""
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k").label_names()


def _read_imagenet(root: str) -> DataSet:
    layout = _find(root)
    check_same_classes("ImageNet", layout.train, layout.test)
    return _data("ImageNet", root, layout, sorted(layout.train))


def _read_imagenet100(root: str) -> DataSet:
    layout = _find(root)
    chosen = _chosen(os.path.join(root, SUBSET_LIST))
    if chosen is None and len(layout.train) > 100:
        raise ValueError(
            f"ImageNet100: {root} has {len(layout.train)} classes: put a list of 100 wnids, one a line, into "
            f"{os.path.join(root, SUBSET_LIST)}"
        )
    chosen = sorted(layout.train) if chosen is None else chosen
    for part, there in (("train", layout.train), ("val", layout.test)):
        absent = [wnid for wnid in chosen if wnid not in there]
        if absent:
            raise FileNotFoundError(f"{part}/ lacks {len(absent)} of the {len(chosen)} classes, the first is {absent[0]}")
    return _data("ImageNet100", root, layout, chosen)


def _data(name: str, root: str, layout: _Layout, wnids: Sequence[str]) -> DataSet:
    folders = [layout.train[wnid] for wnid in wnids]
    folders += [layout.test_folders[wnid] for wnid in wnids] if layout.test_folders else []
    paths = [[f"{folder}{os.sep}{file}" for file in files] for folder, files in zip(folders, listed(folders, root), strict=True)]
    test = dict(zip(wnids, paths[len(wnids) :], strict=True)) if layout.test_folders else layout.test_files
    return DataSet(name, tuple(wnids), images_of(wnids, dict(zip(wnids, paths[: len(wnids)], strict=True))), images_of(wnids, test))


def _chosen(path: str) -> list[str] | None:
    """The wnids of a list, sorted; None where there is none."""
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    wnids = [line[:9] for line in lines]
    wrong = next((line for k, line in enumerate(lines) if not _WNID.match(line) or wnids[k] in wnids[:k]), None)
    if wrong or not wnids:
        found = f"found {wrong[:40]!r}" if wrong else "but it is empty"
        raise ValueError(f"{path}: each line must begin with another wnid such as n01440764, {found}")
    return sorted(wnids)


def _find(root: str) -> _Layout:
    for place in _PLACES:
        base = os.path.join(root, place)
        folders = visible(base)[0] if os.path.isdir(base) else []
        train = ["train"] if "train" in folders else [name for name in folders if re.fullmatch(r"train\.X\d+", name)]
        test = next((name for name in _TEST if name in folders), None)
        if train and test:
            return _layout(root, base, train, test)
        if train or test:
            raise FileNotFoundError(f"{base} holds {train[0] if train else test}/ but no {'val' if train else 'train'}/")
    packed = [name for name in _ARCHIVES if os.path.isfile(os.path.join(root, name))]
    if packed:
        raise FileNotFoundError(
            f"only {' and '.join(packed)}: in Python, torchvision.datasets.ImageNet('{root}', 'train'), then 'val', unpacks "
            "them, given the devkit's archive too"
        )
    raise FileNotFoundError("neither train/ nor val/")


def _layout(root: str, base: str, train: Sequence[str], test: str) -> _Layout:
    in_train = {wnid: folder for name in train for wnid, folder in _class_folders(os.path.join(base, name)).items()}
    if not in_train:
        folder = os.path.join(base, train[0])
        raise FileNotFoundError(f"{folder} holds no class folders: unpack each n*.tar in it into a folder of its name")
    folder = os.path.join(base, test)
    in_test = _class_folders(folder)
    if in_test:
        return _Layout(in_train, in_test, {})
    files = visible(folder)[1]
    if not files:
        raise FileNotFoundError(f"{folder} holds neither class folders nor images")
    sorted_files = sorted_into_classes(folder, files, (root, base))
    return _Layout(in_train, {}, {wnid: [os.path.join(folder, name) for name in names] for wnid, names in sorted_files.items()})


def _class_folders(folder: str) -> dict[str, str]:
    return {name: os.path.join(folder, name) for name in visible(folder)[0]}
