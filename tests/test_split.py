"""The split: TLlib's and USB's draws to the bit, nested, exact, and loud on bad input."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.split import class_balanced_split, index_hash

TENS = [i % 10 for i in range(1000)]
BLOCKS = [i // 20 for i in range(100)]
SEVENS = [(7 * i) % 3 for i in range(31)]

# targets, n, seed, first labelled positions, hash of labelled, hash of unlabelled (TLlib at c4aa59e, executed)
VECTORS = [
    (TENS, 1, 0, "260 181 422 543 894 935 936 987 28 969", "21d7bab2a944ba89", "53f42a4ff2643c10"),
    (TENS, 1, 1, "800 441 952 403 894 5 66 447 38 649", "cce25a28f75bc4d0", "2add979aa426e7a9"),
    (TENS, 4, 0, "260 860 20 550 181 291 641 921 422 962 582 142", "9a6c34bc4059b8da", "e575087e2be9c2a2"),
    (TENS, 4, 1, "800 840 330 810 441 961 11 351", "c05584b9a59be504", "c8a577066db920d3"),
    (BLOCKS, 4, 0, "18 1 19 8 31 21 38 37 55 53 52 45 78 60 73 62 87 81 82 99", "4c4748efba17dff5", "eea99db9dca3d655"),
    (BLOCKS, 4, 1, "3 16 6 10 35 28 36 23 44 42 58 52 70 74 65 66 95 97 81 96", "0d6f14ad9ff39905", "6c48490949d18f3b"),
    (SEVENS, 4, 0, "12 27 6 30 25 10 16 4 8 11 14 20", "12ae4f16ed4cb312", "c38d10e8208e6bf4"),
    (SEVENS, 4, 1, "6 9 12 27 4 22 10 1 26 11 17 29", "2b6cff6b46f8606c", "dadc9b7bf7e08950"),
]


def slow_split(targets: list[int], n: int, classes: int, seed: int) -> tuple[list[int], list[int]]:
    """TLlib's split as described: class order, ascending positions, `choice`, drawn order; the rest ascending."""
    random = np.random.RandomState(seed)
    labelled: list[int] = []
    for c in range(classes):
        positions = np.array([i for i, target in enumerate(targets) if target == c])
        labelled.extend(int(i) for i in random.choice(positions, n, replace=False))
    return labelled, [i for i in range(len(targets)) if i not in labelled]


def sha(indices: list[int]) -> str:
    return hashlib.sha256(",".join(str(i) for i in indices).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("targets", "n", "seed", "begins", "labelled_hash", "unlabelled_hash"), VECTORS)
@pytest.mark.parametrize("container", [list, np.array, lambda t: np.array(t, dtype=np.uint8)])
def test_vectors(targets, n, seed, begins, labelled_hash, unlabelled_hash, container):
    labelled, unlabelled = class_balanced_split(container(targets), n, seed)
    first = [int(word) for word in begins.split()]
    assert labelled[: len(first)].tolist() == first
    assert (sha(labelled.tolist()), sha(unlabelled.tolist())) == (labelled_hash, unlabelled_hash)
    assert (index_hash(labelled), index_hash(unlabelled)) == (labelled_hash, unlabelled_hash)
    assert labelled.dtype == unlabelled.dtype == np.int64


def test_the_default_seed_is_zero():
    assert class_balanced_split(TENS, 4)[0].tolist() == class_balanced_split(TENS, 4, 0)[0].tolist()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_the_slow_reference_on_random_targets(data):
    classes = data.draw(st.integers(1, 6))
    n = data.draw(st.integers(1, 4))
    extra = data.draw(st.lists(st.integers(0, classes - 1), max_size=40))
    targets = data.draw(st.permutations([c for c in range(classes) for _ in range(n)] + extra))
    seed = data.draw(st.integers(0, 2**32 - 1))
    state = np.random.get_state()[1].tolist()
    labelled, unlabelled = class_balanced_split(targets, n, seed)
    assert (labelled.tolist(), unlabelled.tolist()) == slow_split(targets, n, classes, seed)
    again = class_balanced_split(np.array(targets), n, seed, classes)
    assert (again[0].tolist(), again[1].tolist()) == (labelled.tolist(), unlabelled.tolist())
    assert np.random.get_state()[1].tolist() == state, "the global generator is left alone"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_nested_exact_and_a_partition(seed):
    targets = np.random.RandomState(seed).permutation(np.arange(300) % 7)
    before = None
    for n in (1, 2, 4, 25, 42):
        labelled, unlabelled = class_balanced_split(targets, n, seed)
        assert np.bincount(targets[labelled], minlength=7).tolist() == [n] * 7
        assert targets[labelled].tolist() == sorted(targets[labelled]), "class-major"
        assert sorted([*labelled, *unlabelled]) == list(range(300))
        assert unlabelled.tolist() == sorted(unlabelled)
        if before is not None:
            smaller = before.reshape(7, -1)
            assert (labelled.reshape(7, n)[:, : smaller.shape[1]] == smaller).all(), (
                "the first of a class do not depend on n"
            )
        before = labelled


def test_another_seed_is_another_split():
    splits = {tuple(class_balanced_split(TENS, 4, seed)[0].tolist()) for seed in range(50)}
    assert len(splits) == 50


def test_everything_labelled_leaves_nothing_unlabelled():
    labelled, unlabelled = class_balanced_split([0, 1, 0, 1], 2)
    assert sorted(labelled.tolist()) == [0, 1, 2, 3] and unlabelled.shape == (0,)


@pytest.mark.parametrize(
    ("targets", "n", "classes", "message"),
    [
        ([0, 1, 0], 0, None, ">= 1, got 0"),
        ([0, 1, 0], -4, None, ">= 1, got -4"),
        ([0, 1, 0, 0], 2, None, "class 1 has 1 images, 2 per class were asked for"),
        ([0, 2, 0, 2], 1, None, "class 1 has 0 images, 1 per class"),
        ([0, 1, 0, 1], 1, 3, "class 2 has 0 images, 1 per class"),
        ([0, 1, 2], 1, 2, "labels run from 0 to 2, expected 0 to 1"),
        ([0, -1, 1], 1, None, "labels run from -1 to 1, expected 0 to 1"),
        ([], 1, None, "non-empty"),
        ([0.0, 1.0], 1, None, "whole numbers"),
        (["cat", "dog"], 1, None, "whole numbers"),
        ([[0, 1], [1, 0]], 1, None, "whole numbers"),
    ],
)
def test_bad_input_is_one_clear_line(targets, n, classes, message):
    with pytest.raises(ValueError) as caught:
        class_balanced_split(targets, n, 0, classes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_imagenet_sized_input():
    targets = np.random.RandomState(0).permutation(np.arange(1_300_000) % 1000)
    labelled, unlabelled = class_balanced_split(targets, 13, 0)
    assert labelled.shape == (13_000,) and unlabelled.shape == (1_287_000,)
    assert (np.bincount(targets[labelled]) == 13).all()
    assert len(np.unique(np.concatenate([labelled, unlabelled]))) == 1_300_000
    positions = np.flatnonzero(targets == 0)
    assert labelled[:13].tolist() == np.random.RandomState(0).choice(positions, 13, False).tolist()
