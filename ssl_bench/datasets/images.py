"""Containers every loader fills and every stream reads: `Images` (one part of a set) and `DataSet` (all its parts).

torch is not imported here, so that the names of the data sets can be listed without it.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ssl_bench.datasets import decode

if TYPE_CHECKING:
    import torch

    from ssl_bench.datasets.pixel_file import CachedRows


@dataclass(frozen=True, eq=False)
class Images:
    """N images with their labels: one tensor (*resident*), files decoded on demand, or their pixels in a cache file.

    Exactly one of `pixels`, `paths` and `cached` is given.

    Attributes:
        targets: int64 (N,), class index, -1 where the image has no label.
        pixels: uint8 (N, 1|3, H, W) in 0..255, when all images have one size and fit in memory; grey keeps one channel.
        paths: N file names otherwise.
        cached: rows of a file of decoded images: a cache made of such files, see `cache.with_cache`, or published so.

    Raises:
        ValueError: a shape, type or length is not as described.
    """

    targets: np.ndarray
    pixels: torch.Tensor | None = None
    paths: tuple[str, ...] | None = None
    cached: CachedRows | None = None

    def __post_init__(self) -> None:
        if self.targets.dtype != np.int64 or self.targets.ndim != 1:
            raise ValueError(f"targets must be int64 of shape (N,), got {self.targets.dtype} {self.targets.shape}")
        held = [part for part in (self.pixels, self.paths, self.cached) if part is not None]
        if len(held) != 1:
            raise ValueError("give either pixels (one tensor), paths (files) or cached rows: one of them, not several")
        if self.pixels is not None:
            shape = tuple(self.pixels.shape)
            if str(self.pixels.dtype) != "torch.uint8" or len(shape) != 4 or shape[1] not in (1, 3):
                raise ValueError(f"pixels must be uint8 of shape (N, 1 or 3, H, W), got {self.pixels.dtype} {shape}")
        if len(held[0]) != len(self.targets):
            raise ValueError(f"{len(held[0])} images but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def files(self) -> tuple[str, ...]:
        """`paths`; () where the images are no files."""
        return self.paths or ()

    def load(self, i: int) -> torch.Tensor:
        """Image `i` as uint8 (1|3, H, W), do not write into it; all but resident ones are RGB, see `decode.decode`.

        Raises:
            decode.UnreadableImage: the file cannot be decoded; the message names it.
        """
        if self.pixels is not None:
            return self.pixels[i]
        return decode.decode(self.files[i]) if self.cached is None else self.cached.load(i)

    def take(self, indices: np.ndarray | list[int]) -> Images:
        """The images at `indices` (integers in 0..N-1, any order, repeats allowed), in that order.

        A run of consecutive indices shares memory with this object, anything else is copied.

        Raises:
            ValueError: indices are not integers in 0..N-1.
        """
        chosen = np.asarray(indices)
        if chosen.size == 0:
            chosen = np.zeros(0, dtype=np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise ValueError(f"indices must be a list of integers, got {chosen.dtype} of shape {chosen.shape}")
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise ValueError(f"indices must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        chosen = chosen.astype(np.int64, copy=False)
        targets = self.targets[chosen]
        if self.cached is not None:
            return Images(targets, cached=self.cached.take(chosen))
        if self.pixels is None:
            return Images(targets, paths=tuple(self.files[i] for i in chosen))
        if chosen.size and bool((np.diff(chosen) == 1).all()):
            return Images(targets, self.pixels[int(chosen[0]) : int(chosen[-1]) + 1])
        return Images(targets, self.pixels[chosen])


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set for semi-supervised classification.

    Attributes:
        name: as given to `-d`.
        classes: C class names; a target t means `classes[t]`.
        train: the labelled pool; the split draws n images per class from its targets, the rest becomes unlabelled.
        test: evaluation images, all labelled.
        unlabeled: further unlabelled images, appended after the rest of `train`; their targets are -1, or true labels that
            only an oracle and displays may use.
        labeled_given: all of `train` is the labelled set by default (layout labelled/, unlabelled/, test/).
        broken: files left out because they cannot be decoded (`skip_broken`).

    Raises:
        ValueError: a target is no index into `classes`, or a part is empty.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    unlabeled: Images | None = None
    labeled_given: bool = False
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.classes)
        for part, images, lowest, highest in (
            ("train", self.train, -1, count - 1),
            ("test", self.test, 0, count - 1),
            ("unlabeled", self.unlabeled, -1, count - 1),
        ):
            if images is None:
                continue
            if not len(images):
                raise ValueError(f"{self.name}: the {part} part has no images")
            low, high = int(images.targets.min()), int(images.targets.max())
            if low < lowest or high > highest:
                raise ValueError(
                    f"{self.name}: {part} targets must lie in {lowest}..{highest} ({count} classes), got {low}..{high}"
                )
