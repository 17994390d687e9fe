"""The labelled/unlabelled split: a pure function of (targets, images per class, seed)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def class_balanced_split(
    targets: Sequence[int] | np.ndarray, n: int, seed: int = 0, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` labelled positions per class; the rest is unlabelled.

    targets: (N,) integer labels 0..C-1 in data set order.  num_classes: C; default max(targets) + 1.
    Returns (labelled (n*C,), unlabelled (N - n*C,)), int64; labelled is class-major in drawn order, unlabelled ascending;
    they are disjoint.  For one seed, the first n of a class are the same whatever n is (nested splits).

    Bit-identical to TLlib's ``x_u_split`` and USB's/TorchSSL's sampler: one legacy ``RandomState(seed)``, one ``choice``
    without replacement per class in class order.  O(N).
    Raises ValueError: n < 1, a label outside 0..C-1, a class with fewer than n images, no images at all.
    """
    targets = np.asarray(targets)
    if targets.ndim != 1 or not len(targets) or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets must be a non-empty list of whole numbers, got shape {targets.shape} of {targets.dtype}")
    if n < 1:
        raise ValueError(f"labelled images per class must be >= 1, got {n}")
    classes = int(targets.max()) + 1 if num_classes is None else num_classes
    if targets.min() < 0 or targets.max() >= classes:
        raise ValueError(f"labels run from {targets.min()} to {targets.max()}, expected 0 to {classes - 1}")
    counts = np.bincount(targets, minlength=classes)
    if counts.min() < n:
        scarce = int(counts.argmin())
        raise ValueError(f"class {scarce} has {counts[scarce]} images, {n} per class were asked for")
    by_class = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])
    random = np.random.RandomState(seed)
    labelled = np.concatenate([random.choice(positions, n, False) for positions in by_class])
    rest = np.ones(len(targets), dtype=bool)
    rest[labelled] = False
    return labelled.astype(np.int64), np.flatnonzero(rest)


def index_hash(indices: np.ndarray) -> str:
    """First 16 hex digits of the sha256 of the comma-joined decimal list."""
    return hashlib.sha256(",".join(map(str, indices.tolist())).encode()).hexdigest()[:16]
