"""Stanford Dogs: the official lists and archives in miniature, files that are missing, lists that are damaged."""
from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trees import error_of, files_of, mini, served, shrunk, write_tree

from ssl_bench.datasets import dogs, image_list

scipy_io = pytest.importorskip("scipy.io")
BREEDS = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]


def write_list(path: Path, names: list[str], labels: list[int]) -> None:
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    path.parent.mkdir(parents=True, exist_ok=True)
    # The official lists also have an annotation_list, which is not read.
    scipy_io.savemat(path, {"file_list": cells, "annotation_list": cells, "labels": np.array(labels, np.uint8)[:, None]})


def write_dogs(root: Path, lists: str = "") -> None:
    write_tree(root / "Images", BREEDS, 4)
    for name, numbers in (("train_list.mat", (3, 0)), ("test_list.mat", (1, 2))):
        files = [(f"{breed}/{breed}_{k}.jpg", label) for label, breed in enumerate(BREEDS, 1) for k in numbers]
        write_list(root / lists / name, *zip(*files, strict=True))


@pytest.mark.parametrize("lists", ["", "lists"])
def test_the_official_lists(tmp_path, lists):
    write_dogs(tmp_path, lists)
    data = mini("StanfordDogs", tmp_path)
    assert data.classes == tuple(BREEDS)
    assert files_of(data.train, tmp_path) == [f"Images/{breed}/{breed}_{k}.jpg" for breed in BREEDS for k in (3, 0)]
    assert data.train.targets.tolist() == data.test.targets.tolist() == [0, 0, 1, 1]
    assert files_of(data.test, tmp_path)[0] == f"Images/{BREEDS[0]}/{BREEDS[0]}_1.jpg"


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_official_archives(tmp_path, monkeypatch, by_hand):
    source, root = tmp_path / "source", tmp_path / "root"
    write_dogs(source)
    for archive, members in (("images.tar", ["Images"]), ("lists.tar", ["train_list.mat", "test_list.mat"])):
        with tarfile.open(source / archive, "w") as packed:
            for member in members:
                packed.add(source / member, member)
    if by_hand:
        root.mkdir()
        for archive in ("lists.tar", "images.tar"):
            (source / archive).rename(root / archive)
    with served(source) as url:
        monkeypatch.setattr(dogs, "FILES", [replace(file, urls=(f"{url}/{file.name}",)) for file in dogs.FILES])
        assert len(mini("StanfordDogs", root, download=not by_hand).train) == 4
    (root / "Images" / BREEDS[0] / f"{BREEDS[0]}_3.jpg").unlink()
    assert len(mini("StanfordDogs", root).train) == 4  # unpacked again
    (root / "Images" / BREEDS[0] / f"{BREEDS[0]}_3.jpg").unlink()
    (root / "images.tar").unlink()
    (root / "lists.tar").unlink()
    message = error_of("StanfordDogs", root, download=False)
    assert "1 of the 4 files of a list are missing" in message and "put lists.tar and images.tar (from" in message


def test_an_archive_that_is_cut_short_is_named(tmp_path):
    write_dogs(tmp_path / "source")
    with tarfile.open(tmp_path / "images.tar", "w") as packed:
        packed.add(tmp_path / "source" / "Images", "Images")
    content = (tmp_path / "images.tar").read_bytes()
    (tmp_path / "images.tar").write_bytes(content[: len(content) // 2])
    assert "images.tar there is damaged" in error_of("StanfordDogs", tmp_path, download=False)
    assert not (tmp_path / "Images").exists()


def test_tllibs_layout(tmp_path):
    write_tree(tmp_path / "train", BREEDS, 2)
    write_tree(tmp_path / "test", BREEDS, 1)
    (tmp_path / "image_list").mkdir()
    for part, names in (("train", "train_100.txt"), ("test", "test.txt")):
        paths = sorted((tmp_path / part).rglob("*.jpg"))
        rows = [f"{path.relative_to(tmp_path)} {BREEDS.index(path.parent.name)}" for path in paths]
        (tmp_path / "image_list" / names).write_text("\n".join(rows))
    data = image_list.load("StanfordDogs", str(tmp_path), 2)
    assert data.classes == tuple(BREEDS) and data.train.targets.tolist() == [0, 0, 1, 1]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    message = error_of("StanfordDogs", tmp_path, download=False)
    assert "no train_list.mat" in message and "put lists.tar and images.tar (from http" in message
    write_dogs(tmp_path)
    assert "2 classes, 120 were published" in error_of("StanfordDogs", tmp_path, ValueError)
    shrunk(monkeypatch, "StanfordDogs", classes=2)
    assert f"2 training images of class {BREEDS[0]}, 100 were published" in error_of("StanfordDogs", tmp_path, ValueError)
    shrunk(monkeypatch, "StanfordDogs", classes=2, train=5, train_per_class=None)
    assert "4 training images, 5 were published (1 are missing)" in error_of("StanfordDogs", tmp_path, ValueError)


@pytest.mark.parametrize("content", [b"", b"no list", b"MATLAB 5.0 MAT-file" + bytes(300)])
def test_a_damaged_list_is_one_line(tmp_path, content):
    write_dogs(tmp_path)
    (tmp_path / "test_list.mat").write_bytes(content)
    with pytest.raises(ValueError, match="test_list.mat is damaged.*unpack lists.tar again"):
        mini("StanfordDogs", tmp_path)


def test_a_list_that_points_outside_or_skips_a_label(tmp_path):
    write_dogs(tmp_path)
    write_list(tmp_path / "train_list.mat", ["../../etc/passwd"], [1])
    assert "files of a list are missing" in error_of("StanfordDogs", tmp_path, download=False)
    name = f"{BREEDS[0]}/{BREEDS[0]}_0.jpg"
    write_list(tmp_path / "train_list.mat", [name], [5])
    with pytest.raises(ValueError, match="lists' labels are not 1..3"):
        mini("StanfordDogs", tmp_path)
