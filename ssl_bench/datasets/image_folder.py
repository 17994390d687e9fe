"""A user's own images: `train/ test/` with a folder a class, or `labelled/ unlabelled/ test/`."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.listing import image_files, visible
from ssl_bench.datasets.resident import LIMIT_BYTES, broken_files, decode_together

LAYOUTS = (
    "expected train/<class>/* and test/<class>/* (or val/), or labelled/<class>/*, unlabelled/* and test/<class>/*"
)
_TRAIN, _TEST = ("train",), ("test", "val")
LABELLED, _UNLABELLED = ("labelled", "labeled"), ("unlabelled", "unlabeled")
_PARTS = _TRAIN + LABELLED + _UNLABELLED + _TEST


@dataclass(frozen=True)
class _Layout:
    """Folders of one root: the labelled pool, the test set, further images without labels."""

    train: str
    test: str
    unlabelled: str | None
    labeled_given: bool


def load(root: str, *, skip_broken: bool = False, limit_bytes: int = LIMIT_BYTES) -> DataSet:
    """Read a folder of images in one of the two layouts.

    * `train/<class>/...` and `test/<class>/...` (or `val/`; `test/` wins): the split draws the labelled images from
      `train/`. An `unlabelled/` folder beside them adds images.
    * `labelled/<class>/...`, `unlabelled/...` (flat or nested, no labels) and `test/<class>/...`: all of `labelled/` is
      the labelled set. The spellings `labeled/`, `unlabeled/` are accepted.

    Classes are the sub-folders of the labelled part, sorted; images may lie at any depth in them. Hidden files and
    files that are no image by suffix are ignored. If all images have one size and take at most `limit_bytes` decoded,
    all parts are decoded into memory, otherwise all stay files.

    Args:
        root: the folder that holds the parts.
        skip_broken: decode every file once and leave out, and report in `DataSet.broken`, those that fail.
        limit_bytes: most bytes the decoded images may take together to be kept in memory.

    Raises:
        FileNotFoundError, NotADirectoryError: `root` is missing, or a file.
        ValueError: the folders are in no accepted layout, or classes differ, are empty, or fewer than two.
        UnreadableImage: a broken file was met and `skip_broken` is off.
    """
    layout = _find_layout(root)
    classes, train_targets, train_files = _labelled_part(layout.train)
    if len(classes) == 1:
        raise ValueError(_one_class(layout.train, classes[0]))
    test_classes, test_targets, test_files = _labelled_part(layout.test)
    _check_same_classes(layout, classes, test_classes)
    unlabelled_files = image_files(layout.unlabelled) if layout.unlabelled else []
    if layout.unlabelled and not unlabelled_files:
        raise ValueError(f"{layout.unlabelled} holds no images, at any depth")

    broken: tuple[str, ...] = ()
    if skip_broken:
        broken = broken_files([*train_files, *test_files, *unlabelled_files])
        bad = set(broken)
        train_targets, train_files = _without(bad, layout.train, classes, train_targets, train_files)
        test_targets, test_files = _without(bad, layout.test, classes, test_targets, test_files)
        unlabelled_files = [path for path in unlabelled_files if path not in bad]
        if layout.unlabelled and not unlabelled_files:
            raise ValueError(f"{layout.unlabelled} holds no readable image: all {len(bad)} are broken")

    targets = [train_targets, test_targets]
    files = [train_files, test_files]
    if unlabelled_files:
        targets.append(np.full(len(unlabelled_files), -1, dtype=np.int64))
        files.append(unlabelled_files)
    tensors = decode_together(files, limit_bytes)
    if tensors is None:
        parts = [Images(labels, paths=tuple(paths)) for labels, paths in zip(targets, files, strict=True)]
    else:
        parts = [Images(labels, pixels) for labels, pixels in zip(targets, tensors, strict=True)]
    return DataSet(
        name="ImageFolder",
        classes=classes,
        train=parts[0],
        test=parts[1],
        unlabeled=parts[2] if unlabelled_files else None,
        labeled_given=layout.labeled_given,
        broken=broken,
    )


def _find_layout(root: str) -> _Layout:
    if not os.path.lexists(root):
        raise FileNotFoundError(f"no folder {root}; {LAYOUTS}")
    if not os.path.isdir(root):
        raise NotADirectoryError(f"{root} is a file, not a folder: unpack it if it is an archive; {LAYOUTS}")
    folders, files = visible(root)
    train, labelled, unlabelled = (_only_one(root, folders, names) for names in (_TRAIN, LABELLED, _UNLABELLED))
    if train and labelled:
        raise ValueError(f"{root} holds both {train}/ and {labelled}/: keep one of the two; {LAYOUTS}")
    pool = train or labelled
    if pool is None:
        raise ValueError(f"{root} holds neither train/ nor labelled/{_hint(root, folders, files)}; {LAYOUTS}")
    test = next((name for name in _TEST if name in folders), None)
    if test is None:
        raise ValueError(f"{root} holds {pool}/ but no test/ or val/ to evaluate on; {LAYOUTS}")
    if labelled and unlabelled is None:
        raise ValueError(f"{root} holds {labelled}/ but no unlabelled/ (or name it train/ to draw a split); {LAYOUTS}")
    return _Layout(
        train=os.path.join(root, pool),
        test=os.path.join(root, test),
        unlabelled=os.path.join(root, unlabelled) if unlabelled else None,
        labeled_given=labelled is not None,
    )


def _only_one(root: str, folders: Sequence[str], names: Sequence[str]) -> str | None:
    present = [name for name in names if name in folders]
    if len(present) > 1:
        raise ValueError(f"{root} holds both {present[0]}/ and {present[1]}/, two spellings of one part: keep one")
    return present[0] if present else None


def _hint(root: str, folders: Sequence[str], files: Sequence[str]) -> str:
    """What the user probably meant, or what lies there instead."""
    parent, inner = os.path.split(os.path.abspath(root))
    if inner in _PARTS and any(os.path.isdir(os.path.join(parent, name)) for name in _PARTS if name != inner):
        return f": it is one part of a data set, give the folder above it, {parent}"
    for name in folders:
        if any(os.path.isdir(os.path.join(root, name, part)) for part in _TRAIN + LABELLED):
            return f": did you mean {os.path.join(root, name)}?"
    if not folders and not files:
        return ": it is empty"
    if not folders:
        return f", only images ({_some(files)})"
    return f", only the folders {_some(folders)}"


def _labelled_part(folder: str) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """(classes, int64 targets, files) of a folder with one sub-folder a class, class by class."""
    classes, stray = visible(folder)
    if stray:
        where = "beside the class folders" if classes else "without class folders"
        raise ValueError(
            f"{folder} holds images directly, {where} ({_some(stray)}): move each to {folder}/<class>/; {LAYOUTS}"
        )
    if not classes:
        raise ValueError(f"{folder} holds no class folders; {LAYOUTS}")
    by_class = [image_files(os.path.join(folder, name)) for name in classes]
    empty = [name for name, files in zip(classes, by_class, strict=True) if not files]
    if empty:
        raise ValueError(f"no images in class folder {_some([os.path.join(folder, name) for name in empty])}")
    targets = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in by_class])
    return tuple(classes), targets, [path for files in by_class for path in files]


def _one_class(folder: str, name: str) -> str:
    inner = os.path.join(folder, name)
    message = f"{folder} holds a single class folder ({name}), at least two classes are needed"
    folders, files = visible(inner)
    if len(folders) > 1 and not files:
        message += f": if the classes are the folders in it ({_some(folders)}), move them one level up"
    return message


def _check_same_classes(layout: _Layout, classes: Sequence[str], test_classes: Sequence[str]) -> None:
    missing = sorted(set(classes) - set(test_classes))
    extra = sorted(set(test_classes) - set(classes))
    if missing or extra:
        wrong = [f"{_some(missing)} only in {layout.train}"] if missing else []
        wrong += [f"{_some(extra)} only in {layout.test}"] if extra else []
        raise ValueError(f"training and test part must have the same class folders: {', '.join(wrong)}")


def _without(
    bad: set[str], folder: str, classes: Sequence[str], targets: np.ndarray, files: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    kept = np.array([path not in bad for path in files])
    left = np.bincount(targets[kept], minlength=len(classes))
    if not left.all():
        name = os.path.join(folder, classes[int(left.argmin())])
        raise ValueError(f"class folder {name} holds no readable image: all of them are broken")
    return targets[kept], [path for path, keep in zip(files, kept, strict=True) if keep]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
