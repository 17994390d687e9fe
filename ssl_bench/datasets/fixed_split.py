"""A fixed train/test draw, for sets that were published without an official one."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SEED = 0


def fixed_split(
    targets: np.ndarray | Sequence[int], train_per_class: int | Sequence[int] | np.ndarray, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the training positions of each class; all others are test.

    One `RandomState(seed)`, one `choice` without replacement a class, in class order: numpy has frozen both, so the draw is the
    same on every platform and version. It depends on the order of the images, so list them in a fixed one.

    Args:
        targets: (N,) class indices 0..C-1, in the order of the set; every class occurs.
        train_per_class: training images of each class: one number for all, or C numbers; 1 or more, and fewer than there are.
        seed: of the draw; another seed is another data set.

    Returns:
        (train, test): int64 positions, each ascending; disjoint, and together all of 0..N-1.

    Raises:
        ValueError: a class would be left without training or without test images; its index is named.
    """
    targets = np.asarray(targets)
    counts = np.bincount(targets)
    wanted = np.broadcast_to(np.asarray(train_per_class), counts.shape)
    for index in np.flatnonzero((wanted < 1) | (wanted >= counts)):
        raise ValueError(f"class {index} has {counts[index]} images, expected {wanted[index]} for training and others for test")
    random = np.random.RandomState(seed)
    is_train = np.zeros(len(targets), dtype=bool)
    for label, number in enumerate(wanted):
        is_train[random.choice(np.flatnonzero(targets == label), number, replace=False)] = True
    return np.flatnonzero(is_train), np.flatnonzero(~is_train)
