"""Published splits as files: every form of them, what is wrong with one, and ImageNet's size."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import mini, write_tree

from ssl_bench.pools import make_pools
from ssl_bench.split_list import content_hash, read_split_list, require_labels

WNIDS = ["n01440764", "n01443537", "n02085620"]
PATHS = tuple(f"/data/train/{wnid}/{wnid}_{k}.JPEG" for wnid in WNIDS for k in range(4))


def written(folder: Path, text: str | bytes, name: str = "list.txt") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def positions(file: str, count: int = 12, paths: tuple[str, ...] | None = PATHS, left_out: tuple[str, ...] = ()) -> list[int]:
    found = read_split_list(file, count, paths, left_out).positions
    assert found.dtype == np.int64
    return found.tolist()


FORMS = {
    "Semi-ViT": "Index\n5\n0\n11\n",
    "pandas": ",Index\n0,5\n1,0\n2,11\n",
    "several columns": 'file,"Index",class\n"a, b",5,x\n\nc,0,"y\nz"\nd,11,w\n',
    "SimCLR": "n01443537_1.JPEG\nn01440764_0.JPEG\nn02085620_3.JPEG\n",
    "with folders": "n01443537/n01443537_1.JPEG\nn01440764/n01440764_0.JPEG\nn02085620/n02085620_3.JPEG\n",
    "of another machine": "/mnt/x/n01443537/n01443537_1.JPEG\nn01440764_0.JPEG\n./train/n02085620/n02085620_3.JPEG\n",
    "in flat folders": "images/n01443537_1.JPEG\nimages/n01440764_0.JPEG\nimages/n02085620_3.JPEG\n",
    "Semiformer": "n01443537_1.JPEG,101,7\nn01440764_0.JPEG,0,1255\nn02085620_3.JPEG,3,0\n",
    "paths and labels": "train/n01443537/n01443537_1.JPEG,1\ntrain/n01440764/n01440764_0.JPEG,0\ntrain/n02085620/n02085620_3.JPEG,2\n",
    "positions": "5\n0\n11\n",
    "as an editor of Windows leaves it": "\ufeff\r\n5\r\n\r\n 0 \r\n11",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_positions_in_the_order_of_the_file(tmp_path, form):
    assert positions(written(tmp_path, FORMS[form])) == [5, 0, 11]


def test_lines_are_those_of_the_file(tmp_path):
    assert read_split_list(written(tmp_path, FORMS["several columns"]), 12).lines.tolist() == [2, 5, 6]
    assert read_split_list(written(tmp_path, "\n5\n\n0"), 12).lines.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        (" \n\t\n", ["is empty"]),
        ("Index\n\n", ["is empty", "header"]),
        (b"\xff\xfe5\x00\n\x00", ["is not text"]),
        (b"PK\x03\x04\x00\x00", ["is not text"]),
        ("index,class\n5,0\n", ["line 1", "'index,class'", "column Index"]),
        ("\ntrain", ["line 2", "'train'", "column Index"]),
        ('"a,Index"\n5\n', ["line 1", "column Index"]),
        ("Index\n5\n1.5\n", ["line 3", "'1.5'", "no whole number"]),
        ("Index,class\n5,0\n,1\n", ["line 3", "no whole number"]),
        ("class,Index\n0,5\n0\n", ["line 3", "no value in column Index"]),
        ('Index\n5\n"0\n', ["line 3", "no csv"]),
        ("5\n0x1\n", ["line 2", "'0x1'", "no whole number"]),
        ("5\n1_1\n", ["line 2", "'1_1'"]),
        ("5\n٣\n", ["line 2", "no whole number"]),
        ("5\n" + "9" * 5000, ["line 2", "no whole number"]),
        ("5\n12\n", ["line 2", "position 12", "0 to 11"]),
        ("Index\n-1\n", ["line 2", "position -1", "12 images, 0 to 11"]),
        ("99999999999999999\n", ["line 1", "out of range"]),
        ("5\n0\n5\n0\n", ["line 3", "as line 1", "one of 2"]),
        ("n01440764_0.JPEG\nn01440764_0.JPEG,3,1\n", ["line 2", "as line 1"]),
        ("n01440764_0.JPEG\nn01440764_9.JPEG\nn0.JPEG\n", ["line 2: n01440764_9.JPEG", "not in the training part", "2 of 3 names"]),
        ("n01440764_0.JPEG\n7\n", ["line 2: 7 is not in the training part"]),
        ("n01440764_0.JPEG\nn01440764_9.JPEG\nn09999999_1.JPEG\n", ["line 3: n09999999_1.JPEG", "2 of 3", "the data has no class n09999999"]),
        ("n01440764_0.JPEG,1,0\nn09999999_1.JPEG,1,1\nn09999998_1.JPEG,1,2", ["line 2:", "class n09999999, nor 1 others that the list names"]),
        ("n01440764_0.JPEG\nn09999999/1.JPEG\n", ["line 2: 1.JPEG", "no class n09999999"]),
        ("ILSVRC2012_val_00000001.JPEG,66\nILSVRC2012_val_00000002.JPEG,971\n",
         ["line 1: ILSVRC2012_val_00000001.JPEG is of a validation or test part", "2 of 2 names", "list of training images"]),
        ("n01440764_0.JPEG\nval/n01440764/n01440764_7.JPEG\n", ["line 2: n01440764_7.JPEG is of a validation or test part", "1 of 2"]),
        ("a/000001.jpg\na/000002.jpg\n", ["line 1: a/000001.jpg", "2 of 2", "another data set?", "such as n01440764_0.JPEG"]),
        ("n01440764_0.jpeg\n", ["line 1: n01440764_0.jpeg is not in the training part"]),
        ("n01440764/n01440764_0.JPEG\nn01440764/n01443537_0.JPEG", ["line 2: n01440764/n01443537_0.JPEG is not in"]),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_line(tmp_path, text, words):
    file = written(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        positions(file)
    message = str(caught.value)
    assert message.startswith(file) and "\n" not in message and len(message) < 300
    for word in words:
        assert word in message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv"):
        read_split_list(str(tmp_path / "gone.csv"), 12)


def test_names_need_files(tmp_path):
    with pytest.raises(ValueError, match="line 1 names a file.*list positions"):
        positions(written(tmp_path, FORMS["SimCLR"]), paths=None)
    assert positions(written(tmp_path, FORMS["Semi-ViT"]), paths=None) == [5, 0, 11]


def test_a_name_in_two_folders_needs_its_folder(tmp_path):
    paths = ("/d/cats/0.png", "/d/dogs/0.png", "/d/dogs/1.png")
    with pytest.raises(ValueError, match="line 2: 2 images are called 0.png, such as /d/cats/0.png and /d/dogs/0.png"):
        positions(written(tmp_path, "1.png\n0.png\n"), 3, paths)
    assert positions(written(tmp_path, "dogs/0.png\n1.png\ncats/0.png\n"), 3, paths) == [1, 2, 0]
    with pytest.raises(ValueError, match="line 2: cats/1.png is not in the training part"):  # and not dogs/1.png
        positions(written(tmp_path, "dogs/0.png\ncats/1.png\n"), 3, paths)


def test_a_name_may_hold_commas_and_spaces(tmp_path):
    paths = ("/d/a, b.jpg", "/d/c d.jpg")
    assert positions(written(tmp_path, "c d.jpg,0,1\na, b.jpg\n"), 2, paths) == [1, 0]


def test_a_path_with_a_label_may_hold_commas_too(tmp_path):
    assert positions(written(tmp_path, "x/c d.jpg,0\nx/a, b.jpg,1\n"), 2, ("/d/x/a, b.jpg", "/d/x/c d.jpg")) == [1, 0]


def test_folders_of_one_name_are_told_apart_by_the_one_above(tmp_path):
    """Places: church/outdoor and apartment_building/outdoor hold files of the same names."""
    paths = tuple(f"/d/train/{c}/{name}.jpg" for c in ("a/apartment/outdoor", "a/church/outdoor", "a/abbey") for name in ("1", "2"))
    paths += ("/d/train/a/church/outdoor/3.jpg",)
    lists = written(tmp_path, "a/church/outdoor/2.jpg,1\na/abbey/1.jpg,2\na/apartment/outdoor/1.jpg,0\na/church/outdoor/3.jpg,1\n")
    assert positions(lists, 7, paths) == [3, 4, 0, 6]
    assert positions(written(tmp_path, "outdoor/3.jpg,1\nabbey/2.jpg,0\n"), 7, paths) == [6, 5]
    with pytest.raises(ValueError, match="line 2: outdoor/3.jpg is not in the training part"):  # and not church/outdoor/3.jpg
        positions(written(tmp_path, "a/church/outdoor/1.jpg,1\na/apartment/outdoor/3.jpg,0\n"), 7, paths)
    with pytest.raises(ValueError, match="line 1: 2 images are called 1.jpg, such as /d/train/a/apartment/outdoor/1.jpg and /d/train/a/church"):
        positions(written(tmp_path, "outdoor/1.jpg,0\n"), 7, paths)
    parts = ("/d/part1/cats/1.png", "/d/part2/cats/2.png")  # of another machine: nothing above cats is right, and nothing needs it
    assert positions(written(tmp_path, "/mnt/data/cats/2.png\n/mnt/data/cats/1.png\n"), 2, parts) == [1, 0]


def test_a_list_of_imagenet_for_another_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: n01443537_1.JPEG is not .*3 of 3.*another data set\? Files here are called such as 1.png"):
        positions(written(tmp_path, FORMS["SimCLR"]), 2, ("/d/cats/1.png", "/d/cats/2.png"))
    mostly = "".join(f"cats/{k}.png\n" for k in range(9))
    tail = written(tmp_path, mostly + "cats/99.png\n")
    with pytest.raises(ValueError, match=r"line 10: cats/99.png is not in the training part \(1 of 10 names are not\)$"):
        positions(tail, 9, tuple(f"/d/cats/{k}.png" for k in range(9)))


def test_broken_images_that_were_left_out_are_passed_over_by_name_only(tmp_path):
    names = written(tmp_path, FORMS["SimCLR"] + "n01440764_9.JPEG\n")
    assert positions(names, left_out=("/data/train/n01440764/n01440764_9.JPEG",)) == [5, 0, 11]
    with pytest.raises(ValueError, match="1 broken images were left out: list names"):
        positions(written(tmp_path, "5\n"), left_out=("x.JPEG",))


def test_each_class_needs_a_label_and_each_listed_image_has_one(tmp_path):
    targets = np.arange(12) // 4
    require_labels(read_split_list(written(tmp_path, "8\n1\n5\n"), 12), targets, WNIDS)
    listed = read_split_list(written(tmp_path, "1\n2\n"), 12)
    with pytest.raises(ValueError, match=r"list.txt names no image of class n01443537 and 1 more"):
        require_labels(listed, targets, WNIDS)
    targets[2] = -1
    with pytest.raises(ValueError, match=r"list.txt line 2: this image has no label"):
        require_labels(listed, targets, WNIDS)


def test_the_hash_is_of_the_bytes(tmp_path):
    assert content_hash(written(tmp_path, "5\n")) == hashlib.sha256(b"5\n").hexdigest()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    write_tree(root / "train", WNIDS, 12, ".JPEG")  # 10 sorts before 2
    (root / "train" / WNIDS[1] / f"{WNIDS[1]}_3.JPEG").rename(root / "train" / WNIDS[1] / f"{WNIDS[1]}_A.JPEG")
    write_tree(root / "val", WNIDS, 1, ".JPEG")
    return root


def test_a_miniature_imagenet_is_split_alike_by_every_published_form(imagenet, tmp_path):
    """Positions count in the order of torchvision's ImageFolder, written down here by it and read by us."""
    from torchvision.datasets import ImageFolder

    samples = ImageFolder(str(imagenet / "train")).samples
    train = mini("ImageNet", imagenet).train
    chosen = random.Random(0).sample(range(len(samples)), 9)
    names = [Path(samples[k][0]).name for k in chosen]
    rest = sorted(set(range(len(samples))) - set(chosen))
    lists = {
        "train_25p_index.csv": "Index\n" + "".join(f"{k}\n" for k in chosen),
        "25percent.txt": "".join(f"{name}\n" for name in names),
        "files2shards_split1.txt": "".join(f"{name},{k // 4},{k % 4}\n" for k, name in enumerate(names)),
    }
    for name, text in lists.items():
        listed = read_split_list(written(tmp_path, text, name), len(train), train.paths)
        assert listed.positions.tolist() == chosen
        assert [train.paths[k] for k in listed.positions] == [samples[k][0] for k in chosen]
        assert train.targets[listed.positions].tolist() == [samples[k][1] for k in chosen]
    unlabelled = written(tmp_path, "Index\n" + "".join(f"{k}\n" for k in rest), "train_75p_index.csv")
    assert positions(unlabelled, len(train), train.paths) == rest


def test_semiformers_lists_with_the_labelled_images_among_the_unlabelled_and_without_them(imagenet, tmp_path):
    """file,shard,index; the 5 % list is the first half of the 10 % one; unlabelled is all else, or with a flag everything."""
    data = mini("ImageNet", imagenet)
    names = [Path(path).name for path in data.train.paths]
    order = [k for turn in range(4) for k in range(turn, len(names), 12)]  # each class in turn: half of it has every class
    ten = "".join(f"{names[k]},{line // 5},{line % 5}\n" for line, k in enumerate(order))
    five = "".join(line + "\n" for line in ten.splitlines()[: len(order) // 2])
    for text, listed in ((ten, order), (five, order[: len(order) // 2])):
        file = written(tmp_path, text)
        pools = make_pools(data, 4, 0, labeled_list=file)
        assert pools.labeled_ids.tolist() == listed and pools.unlabeled_ids.tolist() == sorted(set(range(len(names))) - set(listed))
        both = make_pools(data, 4, 1, labeled_list=file, unlabeled_all=True)
        assert both.labeled_ids.tolist() == listed and both.unlabeled_ids.tolist() == list(range(len(names)))
        assert [Path(path).name for path in both.labeled.paths] == [names[k] for k in listed]
        assert both.labeled.targets.tolist() == [WNIDS.index(names[k][:9]) for k in listed]
    for text, words in (
        (ten + "n09999999_3.JPEG,9,9\n", f"line {len(order) + 1}: n09999999_3.JPEG .* has no class n09999999"),
        ("".join(line + "\n" for line in ten.splitlines() if WNIDS[1] not in line), f"names no image of class .*{WNIDS[1]}"),
        ("".join(f"ILSVRC2012_val_{k:08d}.JPEG,{k}\n" for k in range(1, 20)), "line 1: ILSVRC2012_val_00000001.JPEG is of a validation"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make_pools(data, 4, 0, labeled_list=written(tmp_path, text))
        assert "\n" not in str(caught.value)


LINES = st.one_of(
    st.sampled_from(["Index", "a,Index", "n09999999_0.JPEG", "ILSVRC2012_val_00000001.JPEG,1", "a/b/c/d.png", '"Index', "5", "0", "-1", "12", "1.5", "", " ", ",", '"', "n01440764_0.JPEG", "x/y.png,1", "\ufeff"]),
    st.text(max_size=12),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(content=st.one_of(st.lists(LINES, max_size=6).map("\n".join).map(str.encode), st.binary(max_size=40)), named=st.booleans())
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory, content, named):
    file = written(tmp_path_factory.getbasetemp(), content, "fuzz.txt")
    try:
        listed = read_split_list(file, 12, PATHS if named else None)
    except ValueError as error:
        assert str(error).startswith(file)
    else:
        assert len(set(listed.positions.tolist())) == len(listed.positions) == len(listed.lines) > 0
        assert 0 <= listed.positions.min() <= listed.positions.max() < 12


@pytest.mark.slow
def test_imagenets_size_takes_seconds(tmp_path):
    paths = tuple(f"/data/ImageNet/train/n{c:08d}/n{c:08d}_{k}.JPEG" for c in range(1000) for k in range(1280))
    chosen = np.random.RandomState(0).permutation(len(paths))[:128_000]
    names = written(tmp_path, "\n".join(paths[k].rpartition("/")[2] for k in chosen))
    begun = time.perf_counter()
    assert positions(names, len(paths), paths) == chosen.tolist()
    assert time.perf_counter() - begun < 15  # measured: 1.1 s
    begun = time.perf_counter()
    folders = written(tmp_path, "\n".join(f"{paths[k][1:]},7" for k in chosen))
    assert positions(folders, len(paths), paths) == chosen.tolist()
    with pytest.raises(ValueError, match=r"line 1: ILSVRC2012_val_00000001.JPEG.*50000 of 50000"):
        positions(written(tmp_path, "\n".join(f"ILSVRC2012_val_{k:08d}.JPEG,1" for k in range(1, 50_001))), len(paths), paths)
    assert time.perf_counter() - begun < 30  # measured: 3.1 s
