"""ImageNet's 50,000 validation images as their archive unpacks, all in one folder: which class each is of."""
from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Iterable

import numpy as np

from ssl_bench.messages import reason_of

DEVKIT = "ILSVRC2012_devkit_t12"
SOLUTION = "LOC_val_solution.csv"
REMEDY = (
    f"put {DEVKIT}.tar.gz (from image-net.org) or Kaggle's {SOLUTION} beside it, which say what class each is of, or sort them "
    "into folders <wnid>/"
)


def sorted_into_classes(folder: str, files: Iterable[str], roots: Iterable[str]) -> dict[str, list[str]]:
    """wnid -> files, in the order given.

    Args:
        folder: of the images, for messages.
        files: names such as ILSVRC2012_val_00000001.JPEG.
        roots: folders in which the devkit (its archive, or unpacked) or Kaggle's list may lie.

    Raises:
        FileNotFoundError: none of these is there.
        ValueError: it is damaged, or does not know one of the files.
    """
    wnids = next(filter(None, map(_labels, roots)), None)
    if wnids is None:
        raise FileNotFoundError(f"{folder} holds images, not class folders: {REMEDY}")
    found: dict[str, list[str]] = {}
    for name in files:
        wnid = wnids.get(name.partition(".")[0])
        if wnid is None:
            path = os.path.join(folder, name)
            raise ValueError(f"no list says of what class {path} is: remove it, or put it into its class folder")
        found.setdefault(wnid, []).append(name)
    return found


def _labels(root: str) -> dict[str, str] | None:
    """File name without suffix -> wnid; None where there is no list."""
    solution = os.path.join(root, SOLUTION)
    archive = os.path.join(root, f"{DEVKIT}.tar.gz")
    paths = [os.path.join(root, DEVKIT, "data", name) for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")]
    try:
        if os.path.isfile(solution):
            with open(solution, newline="", encoding="utf-8") as file:
                return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
        if all(map(os.path.isfile, paths)):
            meta, truth = (open(path, "rb").read() for path in paths)
            return _from_devkit(meta, truth)
        if os.path.isfile(archive):
            with tarfile.open(archive) as packed:
                members = map(packed.extractfile, (os.path.relpath(path, root) for path in paths))
                meta, truth = (member.read() for member in members if member is not None)  # None: no file
                return _from_devkit(meta, truth)
    except (MemoryError, PermissionError):
        raise
    # For bytes that are no .mat file or archive scipy and tarfile raise almost anything (MatReadError, zlib.error, KeyError ...).
    except Exception as error:
        reason = reason_of(error)
        raise ValueError(f"the list of validation labels in {root} is damaged ({reason}): fetch it again") from error
    return None


def _from_devkit(meta: bytes, truth: bytes) -> dict[str, str]:
    from scipy.io import loadmat  # scikit-learn needs it, so it is there

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    wnid_of = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    return {f"ILSVRC2012_val_{k:08d}": wnid_of[int(number)] for k, number in enumerate(np.array(truth.split()), 1)}
