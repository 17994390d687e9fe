"""TLlib's lists: order and split kept, and one line for whatever is wrong with one."""

from __future__ import annotations

import os

import pytest

from ssl_bench.datasets.image_list import load, read_list
from ssl_bench.datasets.listing import absent, require
from ssl_bench.pools import make_pools


def write(root, lists: dict[str, str], files=()) -> str:
    """Lists in root/image_list, and empty files (nothing is decoded when a list is read)."""
    (root / "image_list").mkdir(exist_ok=True)
    for name, text in lists.items():
        (root / "image_list" / f"{name}.txt").write_bytes(text.encode())
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root / "image_list" / f"{next(iter(lists), None)}.txt")


def test_order_spaces_and_labels(tmp_path):
    names = ["train/b b/2  x.jpg", "train/a/1.jpg", "test/ü.JPG", "train/b b/1 3.jpg"]
    text = f"{names[0]} 1\n\n{names[1]}\t0\r\n  {names[2]}   2\n{names[3]} 01"
    images = read_list(write(tmp_path, {"l": "\ufeff" + text}, names), [str(tmp_path)], 3)
    assert images.paths == tuple(str(tmp_path / name) for name in names)
    assert images.targets.tolist() == [1, 0, 2, 1]


def test_the_split_is_tllibs(tmp_path):
    """TLlib's vector for labels (7 i) % 3, i < 31, four a class, seed 0: the order of the lines counts, not that of the names."""
    names = [f"train/{31 - i}.jpg" for i in range(31)]
    lists = {"train": "\n".join(f"{name} {7 * i % 3}" for i, name in enumerate(names)), "test": "test/a.jpg 0\ntest/b.jpg 1"}
    write(tmp_path, lists, [*names, "test/a.jpg", "test/b.jpg"])
    pools = make_pools(load("Toy", str(tmp_path), 3), 4, 0)
    assert pools.split_hash == {"labeled": "12ae4f16ed4cb312", "unlabeled": "c38d10e8208e6bf4"}
    assert pools.labeled_ids.tolist() == [12, 27, 6, 30, 25, 10, 16, 4, 8, 11, 14, 20]
    assert pools.labeled.paths[0].endswith("train/19.jpg")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/a.jpg", "is not 'relative/path label'; write both"),
        ("7", "is not 'relative/path label'"),
        ("train/a.jpg 3", "label '3' is not one of 0..2; correct it"),
        ("train/a.jpg -1", "label '-1' is not one of 0..2"),
        ("train/a.jpg 1.0", "label '1.0' is not one of"),
        ("train/a.jpg ²", "label '²' is not one of"),
        ("train/a.jpg cat", "label 'cat' is not one of"),
        ("../b.jpg 0", "'../b.jpg' leaves the folder of the set; write the path relative to it"),
        ("train/../../b.jpg 0", "leaves the folder of the set"),
        ("/etc/hostname 0", "'/etc/hostname' leaves the folder of the set"),
        ("train/none.jpg 0", "no file .*none.jpg; unpack the images, or remove the line"),
        ("elsewhere/none.jpg 0\nelsewhere/more.jpg 1", "no file .*none.jpg, nor those of 1 other lines; unpack"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    (tmp_path.parent / "b.jpg").touch()
    path = write(tmp_path, {"train": f"train/a.jpg 0\n\n{line}\n"}, ["train/a.jpg"])
    with pytest.raises(ValueError, match=message) as caught:
        read_list(path, [str(tmp_path)], 3)
    assert str(caught.value).startswith(f"{path}, line 3: ") and "\n" not in str(caught.value)


def test_lists_that_are_missing_or_empty(tmp_path):
    assert load("Toy", str(tmp_path), 2) is None
    write(tmp_path, {"test": ""})
    with pytest.raises(ValueError, match="image_list holds no train_100.txt or train.txt; put TLlib's list there"):
        load("Toy", str(tmp_path), 2)
    path = write(tmp_path, {"train": "a.jpg 0\nb.jpg 1"}, ["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match="test.txt is empty"):
        load("Toy", str(tmp_path), 2)
    write(tmp_path, {"test": "a.jpg 0"})
    with pytest.raises(ValueError, match="holds no validation.txt"):
        load("Toy", str(tmp_path), 2, unlabeled="validation")
    os.remove(path)
    with pytest.raises(ValueError, match="train.txt cannot be read .*No such file"):
        read_list(path, [str(tmp_path)], 2)


def test_the_full_list_comes_before_the_plain_one(tmp_path):
    lists = {"train": "a.jpg 0", "train_100": "b.jpg 0\na.jpg 1", "train_15": "a.jpg 0", "test": "a.jpg 0"}
    write(tmp_path, lists, ["a.jpg", "b.jpg"])
    assert len(load("Toy", str(tmp_path), 2).train) == 2


def test_class_names_come_from_folders_where_each_class_has_one(tmp_path):
    names = ["train/b/1.jpg", "train/b/2.jpg", "train/a/1.jpg"]
    write(tmp_path, {"train": f"{names[0]} 0\n{names[1]} 0\n{names[2]} 1", "test": f"{names[0]} 0"}, names)
    assert load("Toy", str(tmp_path), 2).classes == ("b", "a")
    write(tmp_path, {"train": f"{names[0]} 0\n{names[1]} 1\n{names[2]} 1"})
    assert load("Toy", str(tmp_path), 2).classes == ("0", "1")
    write(tmp_path, {"train": f"{names[0]} 0\n{names[2]} 1"})
    assert load("Toy", str(tmp_path), 3).classes == ("0", "1", "2")


def test_lines_may_start_from_either_of_two_folders(tmp_path):
    below = tmp_path / "SUN"
    below.mkdir()
    write(below, {"train": "a/1.jpg 0", "test": "SUN/a/1.jpg 0"}, ["a/1.jpg"])
    data = load("Toy", str(below), 1, also_below=str(tmp_path))
    assert data.train.paths == data.test.paths == (str(below / "a" / "1.jpg"),)


def test_names_need_not_be_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).touch()
    (tmp_path / "l.txt").write_bytes(b"caf\xe9.jpg 0\n")
    assert read_list(str(tmp_path / "l.txt"), [str(tmp_path)], 1).paths == (str(tmp_path / name),)


def test_absent_lists_each_folder_once_and_takes_a_dangling_link_for_there(tmp_path, monkeypatch):
    write(tmp_path, {}, ["a/1", "a/2", "b/1"])
    (tmp_path / "b" / "link").symlink_to("nowhere")
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    paths = [str(tmp_path / name) for name in ("a/1", "none/1", "b/link", "a/3", "b/1", "a/2")]
    assert absent(paths) == [1, 3] and len(listed) == 2
    with pytest.raises(FileNotFoundError, match="2 of 6 images are missing, the first is .*none/1"):
        require(paths)
    require(paths[4:])
