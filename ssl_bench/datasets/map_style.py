"""torchvision-style data sets (items `(picture, label)`) to a `DataSet`, for sets the zoo does not name."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.resident import LIMIT_BYTES

if TYPE_CHECKING:
    import torch


def from_torchvision(name: str, train: Any, test: Any, unlabeled: Any = None, *, limit_bytes: int = LIMIT_BYTES) -> DataSet:
    """Turn map-style data sets into a `DataSet`.

    A set that lists its files (`samples` as ImageFolder has, `_image_files` as Food101, DTD, Flowers102 ... have,
    `_samples` as StanfordCars, `_images` as OxfordIIITPet) keeps files, decoded on demand by `decode.decode`. Any other
    is read into memory once: its pictures must have one size.

    Args:
        name: of the data set.
        train, test: items are `(PIL image, int)`, without a transform; labels in `targets`, `labels` or `_labels`,
            otherwise in the items. Class names in `train.classes`, otherwise "0", "1" ...
        unlabeled: further images, whose labels only an oracle uses; or None.
        limit_bytes: most bytes the pixels of both parts may take in memory.

    Raises:
        ValueError: a transform is set, pictures are no PIL images, differ in size, or do not fit.
    """
    named = {"train": train, "test": test, "unlabeled": unlabeled}
    parts = {split: _part(f"{name} {split}", part, limit_bytes) for split, part in named.items() if part is not None}
    classes = getattr(train, "classes", None)
    if classes is None:
        classes = range(int(parts["train"].targets.max()) + 1)
    return DataSet(name, tuple(str(label) for label in classes), parts["train"], parts["test"], parts.get("unlabeled"))


def _part(what: str, part: Any, limit_bytes: int) -> Images:
    for transform in ("transform", "target_transform", "transforms"):
        if getattr(part, transform, None) is not None:
            raise ValueError(f"{what}: build the data set without {transform}, the streams augment the images")
    labels = next((getattr(part, key) for key in ("targets", "labels", "_labels") if hasattr(part, key)), None)
    files = _files(part)
    if files is not None:
        paths, listed = files
        return Images(np.asarray(listed if labels is None else labels, dtype=np.int64), paths=paths)
    pixels, found = _pixels(what, part, limit_bytes)
    return Images(np.asarray(found if labels is None else labels, dtype=np.int64), pixels)


def _files(part: Any) -> tuple[tuple[str, ...], list[int] | None] | None:
    """The files a data set lists, with their labels where they stand beside them; None if it lists none."""
    paths = (str, os.PathLike)
    for key in ("_image_files", "_images"):
        files = getattr(part, key, None)
        if isinstance(files, list) and files and isinstance(files[0], paths):
            return tuple(map(os.fspath, files)), None
    for key in ("samples", "_samples"):
        samples = getattr(part, key, None)
        if isinstance(samples, list) and samples and isinstance(samples[0], tuple) and isinstance(samples[0][0], paths):
            return tuple(os.fspath(path) for path, _ in samples), [int(label) for _, label in samples]
    return None


def _pixels(what: str, part: Any, limit_bytes: int) -> tuple[torch.Tensor, list[int]]:
    """(uint8 tensor (N, 1|3, H, W), labels) from the items themselves."""
    import torch
    from PIL import Image

    labels: list[int] = []
    pixels = None
    for i in range(len(part)):
        picture, label = part[i]
        if not isinstance(picture, Image.Image):
            raise ValueError(f"{what}: item {i} is {type(picture).__name__}, expected (PIL image, int)")
        array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if pixels is None:
            if len(part) * array.size > limit_bytes:
                raise ValueError(f"{what}: {len(part)} images of {array.shape} do not fit in {limit_bytes:,} bytes")
            pixels = np.empty((len(part), *array.shape), dtype=np.uint8)
        if array.shape != pixels.shape[1:]:
            raise ValueError(
                f"{what}: item {i} has shape {array.shape}, others {pixels.shape[1:]}: save the images as files and "
                "use ImageFolder, or return a DataSet with paths"
            )
        pixels[i] = array
        labels.append(int(label))
    if pixels is None:
        raise ValueError(f"{what}: the data set is empty")
    return torch.from_numpy(pixels), labels
