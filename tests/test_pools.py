"""Split and saved split, the oracle's pool, and parts put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.pools import concatenate, labels_are_given, make_pools, with_true_labels
from ssl_bench.split import class_balanced_split


def images(n: int, first: int = 0, size: int = 4, labels: bool = True, channels: int = 1) -> Images:
    pixels = (torch.arange(first, first + n, dtype=torch.uint8)[:, None, None, None]).expand(n, channels, size, size)
    return Images(np.arange(n) % 2 if labels else np.full(n, -1), pixels)


def data(extra: Images | None = None) -> DataSet:
    return DataSet("toy", ("a", "b"), images(20), images(4), extra)


def test_the_pools_are_the_split_and_further_images_come_last():
    pools = make_pools(data(images(5, 100, labels=False)), 3, seed=1)
    labeled, unlabeled = class_balanced_split(np.arange(20) % 2, 3, 1)
    assert pools.labeled.pixels[:, 0, 0, 0].tolist() == labeled.tolist()
    assert pools.unlabeled.pixels[:, 0, 0, 0].tolist() == [*unlabeled.tolist(), *range(100, 105)]
    assert pools.unlabeled.targets.tolist()[-5:] == [-1] * 5


def test_the_oracle_gets_every_label_there_is_and_no_other():
    pools = with_true_labels(make_pools(data(images(5, 100, labels=False)), 3, seed=1))
    assert len(pools.labeled) == 20 and pools.labeled.targets.min() == 0


def test_hidden_labels_of_further_images_are_the_oracles_alone():
    """TLlib's Flowers: the rest of the training part, then the validation part, whose labels only an oracle sees."""
    pools = make_pools(data(images(6, 100)), 3, seed=1)
    oracle = with_true_labels(pools)
    assert (len(pools.labeled), len(pools.unlabeled)) == (6, 20) and (len(oracle.labeled), len(oracle.unlabeled)) == (26, 20)
    assert oracle.labeled.targets.tolist() == pools.labeled.targets.tolist() + pools.unlabeled.targets.tolist()
    everything = make_pools(data(images(6, 100)), 3, seed=1, all_labeled=True)
    assert (len(everything.labeled), len(everything.unlabeled)) == (20, 6)


def test_a_saved_split_is_read_again_whatever_the_seed(tmp_path):
    saved = tmp_path / "split.npz"
    first = make_pools(data(), 3, seed=1, saved=saved)
    again = make_pools(data(), 3, seed=2, saved=saved)
    assert first.split_hash == again.split_hash != make_pools(data(), 3, seed=2).split_hash


def test_a_saved_split_of_another_set_is_refused(tmp_path):
    saved = tmp_path / "split.npz"
    make_pools(data(), 3, seed=1, saved=saved)
    shorter = DataSet("toy", ("a", "b"), images(18), images(4))
    with pytest.raises(ValueError, match="splits 20 images, the data set has 18"):
        make_pools(shorter, 3, seed=1, saved=saved)
    saved.write_bytes(b"junk")
    with pytest.raises(ValueError, match="split.npz cannot be read"):
        make_pools(data(), 3, seed=1, saved=saved)


def test_all_labeled_leaves_only_the_further_images():
    pools = make_pools(data(images(5, 100, labels=False)), 3, seed=1, all_labeled=True)
    assert (len(pools.labeled), len(pools.unlabeled)) == (20, 5)


def test_too_few_images_names_data_set_class_and_flag():
    with pytest.raises(ValueError, match="toy: class 0 has 10 images, 11 per class were asked for; lower --num-samples-per-class"):
        make_pools(data(), 11, seed=0)


def test_concatenate_repeats_grey_and_refuses_mixtures():
    both = concatenate(images(2), images(3, channels=3))
    assert both.pixels.shape == (5, 3, 4, 4)
    with pytest.raises(ValueError, match="one image size"):
        concatenate(images(2), images(3, size=5))
    with pytest.raises(ValueError, match="must both be files"):
        concatenate(images(2), Images(np.zeros(1, np.int64), paths=("a.png",)))


def test_only_a_labelled_folder_gives_its_labels(tmp_path):
    assert not labels_are_given("ImageFolder", str(tmp_path))
    (tmp_path / "labelled").mkdir()
    assert labels_are_given("ImageFolder", str(tmp_path)) and not labels_are_given("CIFAR10", str(tmp_path))
