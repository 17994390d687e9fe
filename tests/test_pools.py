"""Split and saved split, the oracle's pool, and parts put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_bench import distributed
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


def listing(folder, *positions: int, name: str = "list.csv") -> str:
    (folder / name).write_text("\n".join(["Index", *map(str, positions)]))
    return str(folder / name)


def levels(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def test_a_list_says_which_images_are_labelled_and_all_others_are_not(tmp_path):
    """Whatever the seed, and so on every process: the published code drew another split on each."""
    for seed in (0, 1):
        pools = make_pools(data(images(3, 100, labels=False)), 4, seed, labeled_list=listing(tmp_path, 7, 2, 11))
        assert levels(pools.labeled) == pools.labeled_ids.tolist() == [7, 2, 11]
        assert levels(pools.unlabeled) == [*sorted({*range(20)} - {7, 2, 11}), 100, 101, 102]
        assert levels(with_true_labels(pools).labeled) == [7, 2, 11, *sorted({*range(20)} - {7, 2, 11})]


def test_unlabelled_images_may_be_listed_and_overlap_the_labelled(tmp_path):
    lists = dict(labeled_list=listing(tmp_path, 7, 2), unlabeled_list=listing(tmp_path, 9, 7, 0, name="rest.csv"))
    pools = make_pools(data(images(3, 100)), 4, 0, **lists)
    assert levels(pools.unlabeled) == [9, 7, 0, 100, 101, 102]
    assert levels(with_true_labels(pools).labeled) == [7, 2, 9, 0, 100, 101, 102]


def test_all_images_may_be_unlabelled_ones_and_the_oracle_counts_each_once(tmp_path):
    drawn = make_pools(data(images(3, 100, labels=False)), 3, 1, unlabeled_all=True)
    assert drawn.labeled_ids.tolist() == make_pools(data(), 3, 1).labeled_ids.tolist()
    listed = make_pools(data(images(3, 100, labels=False)), 3, 1, unlabeled_all=True, labeled_list=listing(tmp_path, 7, 2))
    whole = make_pools(data(images(3, 100, labels=False)), 3, 1, unlabeled_all=True, all_labeled=True)
    for pools in (drawn, listed, whole):
        assert levels(pools.unlabeled) == [*range(20), 100, 101, 102]
        assert sorted(levels(with_true_labels(pools).labeled)) == [*range(20)]


def test_a_list_of_names_is_looked_up_in_the_files_behind_a_cache(tmp_path):
    (tmp_path / "names.txt").write_text("img_7.png\nimg_2.png,3,1\n")
    files = tuple(f"/d/img_{k}.png" for k in range(20))
    assert make_pools(data(), 3, 1, labeled_list=str(tmp_path / "names.txt"), paths=files).labeled_ids.tolist() == [7, 2]
    with pytest.raises(ValueError, match="list positions"):
        make_pools(data(), 3, 1, labeled_list=str(tmp_path / "names.txt"))


def test_a_list_without_an_image_of_a_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="list.csv names no image of class b"):
        make_pools(data(), 3, 1, labeled_list=listing(tmp_path, 2, 4))


def test_a_saved_split_may_leave_images_out_and_overlap_where_lists_do(tmp_path, capsys):
    saved = tmp_path / "split.npz"
    lists = dict(labeled_list=listing(tmp_path, 7, 2), unlabeled_list=listing(tmp_path, 9, 7, name="rest.csv"))
    first = make_pools(data(), 4, 0, saved=saved, **lists)
    again = make_pools(data(), 4, 0, saved=saved, **lists)
    assert first.split_hash == again.split_hash and again.unlabeled_ids.tolist() == [9, 7]
    assert not capsys.readouterr().err
    listing(tmp_path, 9, 8, name="rest.csv")
    assert make_pools(data(), 4, 0, saved=saved, **lists).unlabeled_ids.tolist() == [9, 7]
    assert "using the saved split" in capsys.readouterr().err
    for kind in (DataSet("toy", ("a", "b"), images(18), images(4)), DataSet("toy", ("a", "b"), images(22), images(4))):
        with pytest.raises(ValueError, match="splits 20 images, the data set has"):
            make_pools(kind, 4, 0, saved=saved, **lists)
    with pytest.raises(ValueError, match="another data set, or changed files"):
        make_pools(data(), 4, 0, saved=saved)  # a drawn split leaves nothing out


def test_a_split_saved_by_0_1_is_read(tmp_path):
    labeled, unlabeled = class_balanced_split(np.arange(20) % 2, 3, 1)
    np.savez(tmp_path / "split.npz", labeled=labeled, unlabeled=unlabeled)
    assert make_pools(data(), 3, 2, saved=tmp_path / "split.npz").labeled_ids.tolist() == labeled.tolist()


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


def test_a_split_is_a_function_of_the_seed_and_of_no_process(digits, monkeypatch):
    first, other = (make_pools(digits, 4, seed, num_val=2).split_hash for seed in (0, 1))
    assert all(first[part] != other[part] for part in ("labeled", "unlabeled", "val"))
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert make_pools(digits, 4, 0, num_val=2).split_hash == first


def test_held_out_images_are_in_neither_pool_and_a_function_of_the_seed():
    pools = make_pools(data(images(5, 100, labels=False)), 3, 1, num_val=2)
    ids = [*pools.labeled_ids, *pools.unlabeled_ids, *pools.val_ids]
    assert sorted(ids) == [*range(len(data().train))] and len(pools.val) == 4
    assert np.bincount(data().train.targets[pools.val_ids]).tolist() == [2, 2]
    assert levels(pools.val) == [int(i) for i in pools.val_ids]
    assert len(pools.unlabeled) == len(pools.unlabeled_ids) + 5
    without = make_pools(data(), 3, 1)
    assert pools.labeled_ids.tolist() == without.labeled_ids.tolist() and set(without.split_hash) == {"labeled", "unlabeled"}
    assert pools.split_hash == make_pools(data(), 3, 1, num_val=2).split_hash != make_pools(data(), 3, 2, num_val=2).split_hash
    assert not len(with_true_labels(pools).labeled) - (len(data().train) - 4)


def test_held_out_images_leave_lists_and_whole_sets_too(tmp_path):
    for kind in ({"unlabeled_all": True}, {"all_labeled": True}, {"all_labeled": True, "unlabeled_all": True},
                 {"labeled_list": listing(tmp_path, 7, 2)}):  # fmt: skip
        pools = make_pools(data(), 3, 1, num_val=1, **kind)
        assert len(pools.val) == 2 and not {*pools.val_ids} & {*pools.labeled_ids, *pools.unlabeled_ids}


def test_a_saved_split_keeps_what_it_holds_out(tmp_path):
    saved = tmp_path / "split.npz"
    first = make_pools(data(), 3, 1, num_val=2, saved=saved)
    again = make_pools(data(), 3, 2, num_val=2, saved=saved)
    assert again.val_ids.tolist() == first.val_ids.tolist() and again.split_hash == first.split_hash
    with pytest.raises(ValueError, match="split.npz"):
        np.savez(saved, labeled=first.labeled_ids, unlabeled=first.unlabeled_ids, val=first.val_ids[:-1], images=len(data().train))
        make_pools(data(), 3, 1, num_val=2, saved=saved)


def test_too_many_images_to_hold_out_name_the_class_and_the_flag():
    with pytest.raises(ValueError, match="class 0 has 7 training images that are not labelled, 8 .*--num-val-per-class"):
        make_pools(data(), 3, 1, num_val=8)
    with pytest.raises(ValueError, match="class 0 has 10 training images, 10 were"):
        make_pools(data(), 3, 1, num_val=10, all_labeled=True)
