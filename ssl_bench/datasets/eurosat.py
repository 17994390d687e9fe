"""EuroSAT (Helber et al., 2019), the RGB version: land use in 27,000 satellite images of 64x64 pixels."""
from __future__ import annotations

import os
from dataclasses import replace

from ssl_bench.datasets.class_folders import by_class, one_pile
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.resident import decode_together

_MIRROR = "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd"
FILES = (Remote("EuroSAT.zip", (f"{_MIRROR}/EuroSAT.zip",), "c8fa014336c82ac7804f0398fcb19387", "eurosat", "2750"),)
# torchvision's two, the archive's own folder and Zenodo's; the last is a root that holds the class folders themselves.
_PLACES = ("eurosat/2750", "2750", "EuroSAT", "EuroSAT_RGB", "")
_ONE_CLASS = "AnnualCrop"


def load(root: str, download: bool) -> DataSet:
    """21,600 / 5,400 images, uint8 (N, 3, 64, 64), decoded at each start: 330 MB of memory.

    There is no official split. Four fifths of each class (1,600 to 2,400) are drawn for training by `fixed_split` with its
    default seed, from the file names in sorted order. TLlib's lists, which were another draw, are lost.

    In `root` lies the archive, or its folder of ten class folders under one of the usual names.

    Raises:
        FileNotFoundError: files are missing and `download` is off.
        OSError: the download failed.
        ValueError: a class has too few images.
        UnreadableImage: a file cannot be decoded.
    """
    by_hand = (
        f"put EuroSAT.zip (from {_MIRROR}), or its unpacked folder, or that of EuroSAT_RGB.zip (from zenodo.org/records/7711810), "
        f"into {root}"
    )
    return read_or_fetch("EuroSAT", root, _read, FILES, by_hand, download)


def _read(root: str) -> DataSet:
    folder = _find(root)
    if folder is None:
        raise FileNotFoundError(f"no folder with the class folder {_ONE_CLASS}")
    data = one_pile("EuroSAT", by_class(folder), 4, 5)
    pixels = decode_together([data.train.files, data.test.files])
    if pixels is None:  # some image has another size: not the published ones
        return data
    return replace(data, train=Images(data.train.targets, pixels[0]), test=Images(data.test.targets, pixels[1]))


def _find(root: str) -> str | None:
    folders = (os.path.join(root, place) for place in _PLACES)
    return next((folder for folder in folders if os.path.isdir(os.path.join(folder, _ONE_CLASS))), None)
