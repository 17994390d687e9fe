"""Data set + split -> the pools a run works on: labelled, unlabelled, test; and images held out for validation."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_bench import distributed
from ssl_bench.args import Args
from ssl_bench.array_file import read_arrays
from ssl_bench.atomic import write_with
from ssl_bench.datasets.image_folder import LABELLED
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.pixel_file import CachedRows
from ssl_bench.flags import FlagError
from ssl_bench.split import class_balanced_split, index_hash
from ssl_bench.split_list import read_split_list, require_labels


@dataclass(frozen=True)
class Pools:
    """labeled_ids/unlabeled_ids: positions in the data set's train part; further unlabelled images come after those.

    Together with val_ids they are that part, each image once, unless a list or --unlabeled-all said otherwise.  val: images in neither
    pool, none where none were asked for.
    """

    labeled: Images
    unlabeled: Images
    test: Images
    classes: tuple[str, ...]
    labeled_ids: np.ndarray
    unlabeled_ids: np.ndarray
    val: Images | None = None
    val_ids: np.ndarray = field(default_factory=lambda: np.arange(0))

    @property
    def split_hash(self) -> dict[str, str]:
        held_out = {"val": index_hash(self.val_ids)} if len(self.val_ids) else {}
        return {"labeled": index_hash(self.labeled_ids), "unlabeled": index_hash(self.unlabeled_ids), **held_out}


def make_pools(
    data: DataSet, n: int, seed: int, *, all_labeled: bool = False, labeled_list: str | None = None,
    unlabeled_list: str | None = None, unlabeled_all: bool = False, num_val: int = 0, paths: tuple[str, ...] | None = None,
    saved: Path | None = None,
) -> Pools:  # fmt: skip
    """Split `data` class-balanced, `n` images per class (all of them with all_labeled); or as files say, see `split_list`.

    labeled_list: file that names the labelled images, `n` and `seed` then say nothing; unlabeled_list: the unlabelled ones,
    default all others; unlabeled_all: the whole training part.  Further unlabelled images of the data set always come after.
    num_val: images per class held out of both pools: of those that are not labelled (with all_labeled: of all), drawn with `seed` too.
    paths: the files of the training part, by which lists may name images (default: those it is made of).
    saved: split.npz of the run: written when absent, else re-read, so that a resumed run keeps the split it began with.
    Raises OSError: no such list; ValueError: too few images in a class, a list that does not fit the data set, a saved split
    that is not of this data set.
    """
    targets = np.asarray(data.train.targets)
    paths = data.train.paths if paths is None else paths
    if labeled_list is not None:
        listed = read_split_list(labeled_list, len(targets), paths, data.broken)
        require_labels(listed, targets, data.classes)
        labeled = listed.positions
        unlabeled = np.setdiff1d(np.arange(len(targets)), labeled, assume_unique=True)
    elif all_labeled:
        if targets.min() < 0:
            raise ValueError(f"{data.name}: --all-labeled, but image {targets.argmin()} of the training part has no label")
        labeled, unlabeled = np.arange(len(targets)), np.arange(0)
    else:
        try:
            labeled, unlabeled = class_balanced_split(targets, n, seed, len(data.classes))
        except ValueError as error:
            remedy = "; lower --num-samples-per-class" if "asked for" in str(error) else ""
            raise ValueError(f"{data.name}: {error}{remedy}") from None
    if unlabeled_list is not None:
        unlabeled = read_split_list(unlabeled_list, len(targets), paths, data.broken).positions
    elif unlabeled_all:
        unlabeled = np.arange(len(targets))
    val = _held_out(data, labeled, num_val, seed, all_labeled)
    labeled, unlabeled = (ids[~np.isin(ids, val)] if num_val else ids for ids in (labeled, unlabeled))
    if saved is not None:  # the first process writes, the others read
        if distributed.rank():
            distributed.barrier()
        partition = labeled_list is None and not unlabeled_all
        labeled, unlabeled, val = _reread_or_write(saved, (labeled, unlabeled, val), len(targets), partition)
        if not distributed.rank():
            distributed.barrier()
    rest = data.train.take(unlabeled)
    if data.unlabeled is not None:
        rest = concatenate(rest, data.unlabeled)
    held_out = data.train.take(val) if len(val) else None
    return Pools(data.train.take(labeled), rest, data.test, data.classes, labeled, unlabeled, held_out, val)


def _held_out(data: DataSet, labeled: np.ndarray, num_val: int, seed: int, all_labeled: bool) -> np.ndarray:
    targets = np.asarray(data.train.targets)
    rest = np.arange(len(targets)) if all_labeled else np.setdiff1d(np.arange(len(targets)), labeled, assume_unique=True)
    rest = rest[targets[rest] >= 0]
    if not num_val:
        return rest[:0]
    counts = np.bincount(targets[rest], minlength=len(data.classes))
    if counts.min() < num_val + all_labeled:  # of a class that is labelled whole, an image must be left to learn from
        scarce = int(counts.argmin())
        there = f"{counts[scarce]} training images{'' if all_labeled else ' that are not labelled'}"
        raise ValueError(f"{data.name}: class {scarce} has {there}, {num_val} were to be held out; lower --num-val-per-class")
    return rest[class_balanced_split(targets[rest], num_val, seed, len(data.classes))[0]]


def with_true_labels(pools: Pools) -> Pools:
    """The oracle's pools: every image of either pool that has a label is labelled, once."""
    known = np.asarray(pools.unlabeled.targets) >= 0
    known[: len(pools.unlabeled_ids)] &= ~np.isin(pools.unlabeled_ids, pools.labeled_ids)
    return replace(pools, labeled=concatenate(pools.labeled, pools.unlabeled.take(np.flatnonzero(known))))


def labels_are_given(data: str, root: str | None) -> bool:
    """Whether `root` is a user's folder with labelled/ and unlabelled/ parts, so that no split need be drawn."""
    return data == "ImageFolder" and root is not None and any((Path(root).expanduser() / name).is_dir() for name in LABELLED)


def check_lists(args: Args, number_given: bool) -> None:
    """FlagError: a list that is not there, and flags that say two different things of one pool.

    number_given: --num-samples-per-class was on the command line; a recipe's gives way to a list.
    """
    if args.labeled_list is None and args.unlabeled_list is not None:
        raise FlagError("--unlabeled-list needs --labeled-list: a drawn split could label its images")
    if args.labeled_list is not None and (args.all_labeled or number_given):
        other = "--all-labeled" if args.all_labeled else "--num-samples-per-class"
        raise FlagError(f"{other} and --labeled-list both say which images are labelled: give one of them")
    if args.unlabeled_list is not None and args.unlabeled_all:
        raise FlagError("--unlabeled-all and --unlabeled-list both say which images are unlabelled: give one of them")
    for option, file in (("--labeled-list", args.labeled_list), ("--unlabeled-list", args.unlabeled_list)):
        if file is not None and not Path(file).expanduser().is_file():
            raise FlagError(f"{option}: no file {file!r}")


def labels_per_class(args: Args, pools: Pools) -> int | str:
    """What a table calls the amount of labels: of a list the rounded mean, 13 and 128 for 1 % and 10 % of ImageNet."""
    if args.labeled_list is not None:
        return round(len(pools.labeled_ids) / len(pools.classes))
    return "all" if args.all_labeled else args.num_samples_per_class


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
    return Images(targets, torch.cat([part.expand(-1, channels, -1, -1) for part in (a.pixels, b.pixels)]))


def _reread_or_write(path: Path, drawn: tuple[np.ndarray, ...], n: int, partition: bool) -> tuple[np.ndarray, ...]:
    """drawn: labelled, unlabelled, held out; partition: they are the n images, each once; otherwise they may overlap and leave some out."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Any] = dict(zip(("labeled", "unlabeled", "val"), drawn, strict=True))
        write_with(path, lambda file: np.savez(file, images=n, **parts))
        return drawn
    try:
        found = {"val": np.arange(0)} | read_arrays(path, ("labeled", "unlabeled"), ("val", "images"))
        old = found["labeled"], found["unlabeled"], found["val"]
        if not all(part.ndim == 1 and part.dtype.kind in "iu" for part in old) or not 0 <= found.get("images", np.arange(1)).size <= 1:
            raise ValueError("its positions are no rows of whole numbers")
        size = int(found["images"]) if "images" in found else len(old[0]) + len(old[1])
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to draw the split anew") from None
    union = np.unique(np.concatenate(old))
    inside = len(union) == n == sum(map(len, old)) if partition else len(union) and 0 <= union[0] <= union[-1] < n
    if size != n or not inside:
        raise ValueError(f"{path} splits {size} images, the data set has {n}: another data set, or changed files")
    if not all(np.array_equal(*pair) for pair in zip(old, drawn, strict=True)):
        print(f"note: using the saved split {path}, which differs from the one drawn today", file=sys.stderr)
    return old
