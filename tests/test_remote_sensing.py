"""EuroSAT and Resisc45: miniatures in every layout, the fixed draw, wrong counts, missing files."""
from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trees import class_counts, error_of, files_of, mini, served, shrunk, write_image, write_tree

from ssl_bench.datasets import eurosat

LAND = ["AnnualCrop", "Forest", "River"]
SCENES = ["airplane", "airport", "beach"]


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """10, 10 and 5 images of three classes, in a folder named as in the archive."""
    folder = tmp_path_factory.mktemp("land") / "2750"
    write_tree(folder, LAND[:2], 10)
    write_tree(folder, LAND[2:], 5)
    return folder


@pytest.mark.parametrize("place", ["eurosat/2750", "2750", "EuroSAT", "EuroSAT_RGB", ""])
def test_eurosat_in_every_place(tmp_path, land, place):
    shutil.copytree(land, tmp_path / place, dirs_exist_ok=True)
    data = mini("EuroSAT", tmp_path)
    assert data.classes == tuple(LAND)
    assert (class_counts(data.train), class_counts(data.test)) == ([8, 8, 4], [2, 2, 1])
    assert data.train.pixels.shape == (20, 3, 8, 8) and data.test.pixels.shape == (5, 3, 8, 8)


def test_eurosats_draw_is_pinned_and_whole(land):
    """The level of an image is its number, so a split is known by its pixels."""
    data = mini("EuroSAT", land)
    test = data.test.pixels[:, 0, 0, 0].tolist()
    assert test == [0, 5, 4, 7, 0]
    train = data.train.pixels[:, 0, 0, 0].numpy()
    for label, count in enumerate([10, 10, 5]):
        both = [*train[data.train.targets == label], *np.array(test)[data.test.targets == label]]
        assert sorted(both) == list(range(count))


def test_eurosat_with_an_image_of_another_size_stays_files(tmp_path, land):
    shutil.copytree(land, tmp_path / "2750")
    write_image(tmp_path / "2750" / "River" / "River_0.jpg", 0, (9, 8))
    data = mini("EuroSAT", tmp_path)
    assert data.train.paths is not None and len(data.train) == 20


@pytest.mark.parametrize("by_hand", [True, False])
def test_eurosats_archive(tmp_path, land, monkeypatch, by_hand):
    archive = tmp_path / "from" / "EuroSAT.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        for path in land.rglob("*.jpg"):
            packed.write(path, path.relative_to(land.parent))
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    root = tmp_path / "to"
    if by_hand:
        root.mkdir()
        archive.rename(root / "EuroSAT.zip")
    with served(tmp_path / "from") as url:
        (file,) = eurosat.FILES
        monkeypatch.setattr(eurosat, "FILES", [replace(file, urls=(f"{url}/EuroSAT.zip",), checksum=checksum)])
        assert len(mini("EuroSAT", root, download=not by_hand).train) == 20
    assert len(mini("EuroSAT", root).train) == 20


def test_eurosats_damaged_archive_is_not_unpacked(tmp_path):
    (tmp_path / "EuroSAT.zip").write_bytes(b"half of it")
    message = error_of("EuroSAT", tmp_path, download=False)
    assert "put EuroSAT.zip (from https://" in message and [path.name for path in tmp_path.iterdir()] == ["EuroSAT.zip"]


def test_eurosats_counts(tmp_path, land, monkeypatch):
    assert "has 3 classes, 10 were published" in error_of("EuroSAT", land, ValueError)
    shrunk(monkeypatch, "EuroSAT", classes=3, train=21)
    assert "20 training images, 21 were published (1 are missing)" in error_of("EuroSAT", land, ValueError)


@pytest.mark.parametrize("place", ["NWPU-RESISC45", ""])
def test_resisc45_as_one_pile(tmp_path, place):
    write_tree(tmp_path / place, SCENES, 10)
    (tmp_path / place / "airport" / "Thumbs.db").write_bytes(b"of Windows")
    data = mini("Resisc45", tmp_path)
    assert data.classes == tuple(SCENES) and (class_counts(data.train), class_counts(data.test)) == ([8] * 3, [2] * 3)
    for images in (data.train, data.test):
        names = [Path(path).parent.name for path in images.paths]
        assert [data.classes[target] for target in images.targets] == names
    assert not set(data.train.paths) & set(data.test.paths)
    assert files_of(mini("Resisc45", tmp_path).test, tmp_path) == files_of(data.test, tmp_path)


def test_resisc45_in_tllibs_layout_keeps_its_split_and_labels(tmp_path):
    write_tree(tmp_path / "train", SCENES, 3)
    write_tree(tmp_path / "test", SCENES, 1, first=3)
    data = mini("Resisc45", tmp_path)
    assert files_of(data.train, tmp_path) == [f"train/{name}/{name}_{k}.jpg" for name in SCENES for k in range(3)]
    assert files_of(data.test, tmp_path) == [f"test/{name}/{name}_3.jpg" for name in SCENES]
    assert data.train.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3 and data.test.targets.tolist() == [0, 1, 2]


def test_resisc45_says_what_is_wrong(tmp_path, monkeypatch):
    message = error_of("Resisc45", tmp_path)
    assert "never downloaded" in message and "NWPU-RESISC45.rar" in message
    assert str(tmp_path / "NWPU-RESISC45" / "airport") in message
    (tmp_path / "NWPU-RESISC45.rar").touch()
    assert "only NWPU-RESISC45.rar, which is not unpacked" in error_of("Resisc45", tmp_path)
    assert "no such folder" in error_of("Resisc45", tmp_path / "absent")
    write_tree(tmp_path / "train", SCENES, 2)
    write_tree(tmp_path / "test", SCENES[1:], 1)
    with pytest.raises(ValueError, match="the test part has no class folder airplane"):
        mini("Resisc45", tmp_path)
    write_tree(tmp_path / "test", SCENES, 1)
    shrunk(monkeypatch, "Resisc45", classes=3, train=6, test=4)
    assert "3 test images, 4 were published (1 are missing): unpack" in error_of("Resisc45", tmp_path, ValueError)


def test_a_class_that_lost_almost_all_images_is_named(tmp_path):
    write_tree(tmp_path, SCENES, 5)
    for path in list((tmp_path / "beach").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="class beach has 1 images"):
        mini("Resisc45", tmp_path)
