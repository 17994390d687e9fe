"""Data set + split -> the three pools a run works on: labelled, unlabelled, test."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssl_bench import distributed
from ssl_bench.atomic import write_with
from ssl_bench.datasets.image_folder import LABELLED
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.pixel_file import CachedRows
from ssl_bench.split import class_balanced_split, index_hash


@dataclass(frozen=True)
class Pools:
    """labeled_ids/unlabeled_ids: positions in the data set's train part; further unlabelled images come after those."""

    labeled: Images
    unlabeled: Images
    test: Images
    classes: tuple[str, ...]
    labeled_ids: np.ndarray
    unlabeled_ids: np.ndarray

    @property
    def split_hash(self) -> dict[str, str]:
        return {"labeled": index_hash(self.labeled_ids), "unlabeled": index_hash(self.unlabeled_ids)}


def make_pools(data: DataSet, n: int, seed: int, *, all_labeled: bool = False, saved: Path | None = None) -> Pools:
    """Split `data` class-balanced, `n` images per class (all of them with all_labeled).

    saved: split.npz of the run: written when absent, else re-read, so that a resumed run keeps the split it began with.
    Raises ValueError: too few images in a class, a saved split that is not of this data set.
    """
    targets = np.asarray(data.train.targets)
    if all_labeled:
        if targets.min() < 0:
            raise ValueError(f"{data.name}: --all-labeled, but image {targets.argmin()} of the training part has no label")
        labeled, unlabeled = np.arange(len(targets)), np.arange(0)
    else:
        try:
            labeled, unlabeled = class_balanced_split(targets, n, seed, len(data.classes))
        except ValueError as error:
            remedy = "; lower --num-samples-per-class" if "asked for" in str(error) else ""
            raise ValueError(f"{data.name}: {error}{remedy}") from None
    if saved is not None:  # the first process writes, the others read
        if distributed.rank():
            distributed.barrier()
        labeled, unlabeled = _reread_or_write(saved, labeled, unlabeled, len(targets))
        if not distributed.rank():
            distributed.barrier()
    rest = data.train.take(unlabeled)
    if data.unlabeled is not None:
        rest = concatenate(rest, data.unlabeled)
    return Pools(data.train.take(labeled), rest, data.test, data.classes, labeled, unlabeled)


def with_true_labels(pools: Pools) -> Pools:
    """The oracle's pools: every training image that has a label is labelled."""
    known = pools.unlabeled.take(np.flatnonzero(np.asarray(pools.unlabeled.targets) >= 0))
    return replace(pools, labeled=concatenate(pools.labeled, known))


def labels_are_given(data: str, root: str | None) -> bool:
    """Whether `root` is a user's folder with labelled/ and unlabelled/ parts, so that no split need be drawn."""
    return data == "ImageFolder" and root is not None and any((Path(root).expanduser() / name).is_dir() for name in LABELLED)


def concatenate(a: Images, b: Images) -> Images:
    """The images of `a`, then those of `b`.  Both must be held in memory with one size, be files, or lie in one cache (ValueError)."""
    targets = np.concatenate([a.targets, b.targets])
    if a.paths is not None and b.paths is not None:
        return Images(targets, paths=a.paths + b.paths)
    if a.cached is not None and b.cached is not None and a.cached.file is b.cached.file:
        return Images(targets, cached=CachedRows(a.cached.file, np.concatenate([a.cached.rows, b.cached.rows])))
    if a.pixels is None or b.pixels is None or a.pixels.shape[2:] != b.pixels.shape[2:]:
        raise ValueError("two parts of a data set must both be files, both lie in one cache, or both be in memory with one image size")
    channels = max(a.pixels.shape[1], b.pixels.shape[1])
    return Images(targets, torch.cat([part.pixels.expand(-1, channels, -1, -1) for part in (a, b)]))


def _reread_or_write(path: Path, labeled: np.ndarray, unlabeled: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_with(path, lambda file: np.savez(file, labeled=labeled, unlabeled=unlabeled))
        return labeled, unlabeled
    try:
        with np.load(path, allow_pickle=False) as file:
            old = file["labeled"], file["unlabeled"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to draw the split anew") from None
    if len(np.union1d(*old)) != n or len(old[0]) + len(old[1]) != n:
        raise ValueError(f"{path} splits {len(old[0]) + len(old[1])} images, the data set has {n}: another data set, or changed files")
    if not np.array_equal(old[0], labeled):
        print(f"note: using the saved split {path}, which differs from the one drawn today", file=sys.stderr)
    return old
