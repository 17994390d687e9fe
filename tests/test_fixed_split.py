"""The fixed train/test draw: pinned, balanced, and independent of everything but targets, numbers and seed."""
from __future__ import annotations

import numpy as np
import pytest

from ssl_bench.datasets.fixed_split import fixed_split
from ssl_bench.split import class_balanced_split, index_hash

MIXED = (np.arange(60) * 7) % 3


def test_it_is_pinned():
    train, test = fixed_split(MIXED, (4, 15, 8))
    assert index_hash(train) == "6bf19e365bfdf4d3" and index_hash(test) == "3b8db0e25f1c061a"


@pytest.mark.parametrize("numbers", [6, (4, 15, 8), np.array([1, 19, 10])])
def test_every_class_gets_its_number_and_nothing_is_in_both(numbers):
    train, test = fixed_split(MIXED, numbers)
    assert np.bincount(MIXED[train]).tolist() == np.broadcast_to(numbers, 3).tolist()
    assert sorted([*train, *test]) == list(range(60))
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all() and train.dtype == test.dtype == np.int64


def test_it_is_the_labelled_draw_of_a_split():
    assert fixed_split(MIXED, 5, seed=3)[0].tolist() == sorted(class_balanced_split(MIXED, 5, seed=3)[0])


def test_the_seed_counts_and_other_generators_do_not():
    np.random.seed(1)
    first = fixed_split(MIXED, 6)[0].tolist()
    np.random.seed(2)
    assert fixed_split(MIXED.tolist(), 6)[0].tolist() == first != fixed_split(MIXED, 6, seed=1)[0].tolist()


@pytest.mark.parametrize(
    ("targets", "numbers", "index"), [([0, 0, 1, 1], 2, 0), ([0, 0, 0, 1], 1, 1), ([0, 0, 2, 2], 1, 1), ([0, 0], 0, 0)]
)
def test_no_class_is_left_without_training_or_test_images(targets, numbers, index):
    with pytest.raises(ValueError, match=f"class {index} has"):
        fixed_split(targets, numbers)
