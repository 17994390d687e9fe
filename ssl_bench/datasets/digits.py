"""Digits: the 1,797 real 8x8 images that scikit-learn carries (UCI, E. Alpaydin and C. Kaynak, 1998); no download."""
from __future__ import annotations

import importlib.util
import os

import numpy as np

from ssl_bench.datasets.images import DataSet, Images

TEST_PER_CLASS = 50
SPLIT_SEED = 0


def load() -> DataSet:
    """1,297 training and 500 test images, grey, uint8 (N, 1, 8, 8): the values v in 0..16 become round(v * 255 / 16).

    scikit-learn has no split, so it is fixed here: `RandomState(0)` draws 50 test positions of each class, in class
    order, by `choice` without replacement; both parts keep the order of the file.

    Raises:
        ValueError: scikit-learn is missing.
    """
    import torch

    images, labels = _read()
    # No value v * 255 / 16 ends in .5, except for v = 8 (127.5), which rint takes to the even 128.
    pixels = np.rint(images * (255 / 16)).astype(np.uint8)[:, None]
    targets = labels.astype(np.int64)
    random = np.random.RandomState(SPLIT_SEED)
    is_test = np.zeros(len(targets), dtype=bool)
    for digit in range(10):
        is_test[random.choice(np.flatnonzero(targets == digit), TEST_PER_CLASS, replace=False)] = True
    train, test = (Images(targets[part], torch.from_numpy(pixels[part])) for part in (~is_test, is_test))
    return DataSet("Digits", tuple(str(digit) for digit in range(10)), train, test)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) values and (1797,) labels, from scikit-learn's file where it lies: importing the package takes a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ValueError("Digits comes with scikit-learn: pip install scikit-learn")
    path = os.path.join(os.path.dirname(package.origin), "datasets", "data", "digits.csv.gz")
    if os.path.isfile(path):
        table = np.loadtxt(path, delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.images, raw.target
