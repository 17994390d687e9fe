"""ImageNet, ImageNet-100 and Mini-ImageNet: miniatures in every layout, flat validation images, missing and wrong parts."""
from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from trees import class_counts, error_of, files_of, mini, shrunk, write_tree

from ssl_bench import zoo
from ssl_bench.datasets import folder_index, imagenet
from ssl_bench.datasets.imagenet_val import DEVKIT

WNIDS = ["n01440764", "n01443537", "n02085620"]


def write_imagenet(base: Path, wnids: list[str] = WNIDS, val: str = "val") -> None:
    write_tree(base / "train", wnids, 3, ".JPEG")
    write_tree(base / val, wnids, 1, ".JPEG")


# --- ImageNet -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("val", ["val", "validation"])
def test_imagenet_is_imagefolder_in_its_order(tmp_path, base, val):
    from torchvision.datasets import ImageFolder

    write_imagenet(tmp_path / base, val=val)
    data = mini("ImageNet", tmp_path)
    for images, part in ((data.train, "train"), (data.test, val)):
        expected = ImageFolder(str(tmp_path / base / part))
        found = zip(map(os.path.normpath, images.paths), images.targets.tolist(), strict=True)
        assert list(found) == expected.samples
        assert list(data.classes) == expected.classes


def test_nothing_is_decoded_when_it_is_read(tmp_path):
    write_imagenet(tmp_path)
    for path in tmp_path.rglob("*.JPEG"):
        path.write_bytes(b"")
    assert len(mini("ImageNet", tmp_path).train) == 9


def test_the_published_classes_are_timms():
    wnids = imagenet.wnids()
    assert len(set(wnids)) == 1000 and wnids == sorted(wnids) and (wnids[0], wnids[-1]) == ("n01440764", "n15075141")


def flat(root: Path) -> None:
    """The validation images as their archive unpacks: image k is of class (2 - k) mod 3."""
    write_imagenet(root)
    shutil.rmtree(root / "val")
    write_tree(root, ["val"], 4, ".JPEG", first=1)
    for k in range(1, 5):
        (root / "val" / f"val_{k}.JPEG").rename(root / "val" / f"ILSVRC2012_val_{k:08d}.JPEG")


def devkit_files() -> dict[str, bytes]:
    """meta.mat with synsets out of order and one that is no leaf, and the ground truth."""
    savemat = pytest.importorskip("scipy.io").savemat
    rows = [(2, WNIDS[0], 0), (3, WNIDS[1], 0), (1, WNIDS[2], 0), (1001, "n00000001", 3)]
    synsets = np.empty((len(rows), 1), dtype=[(key, object) for key in ("ILSVRC2012_ID", "WNID", "num_children")])
    for synset, row in zip(synsets[:, 0], rows, strict=True):
        for key, value in zip(synsets.dtype.names, row, strict=True):
            synset[key] = value
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    return {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": b"3\n2\n1\n3\n"}


def put_devkit(root: Path, packed: bool) -> None:
    if not packed:
        (root / DEVKIT / "data").mkdir(parents=True)
        for name, content in devkit_files().items():
            (root / DEVKIT / "data" / name).write_bytes(content)
        return
    with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as archive:
        for name, content in devkit_files().items():
            member = tarfile.TarInfo(f"{DEVKIT}/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def put_solution(root: Path) -> None:
    """Kaggle's list, in which boxes follow the class."""
    classes = [WNIDS[1], WNIDS[0], WNIDS[2], WNIDS[1]]
    rows = [f"ILSVRC2012_val_{k:08d},{wnid} 85 1 499 272 {wnid} 3 4 5 6" for k, wnid in enumerate(classes, 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows[::-1], ""]))


@pytest.mark.parametrize("how", ["devkit", "archive", "solution"])
def test_flat_validation_images_are_sorted_by_a_list(tmp_path, how):
    flat(tmp_path)
    put_solution(tmp_path) if how == "solution" else put_devkit(tmp_path, how == "archive")
    data = mini("ImageNet", tmp_path)
    assert [name[-6] for name in files_of(data.test, tmp_path)] == ["2", "1", "4", "3"]
    assert data.test.targets.tolist() == [0, 1, 1, 2] and class_counts(data.train) == [3, 3, 3]


def test_flat_validation_images_without_a_list(tmp_path):
    flat(tmp_path)
    message = error_of("ImageNet", tmp_path)
    assert f"{tmp_path / 'val'} holds images, not class folders" in message and f"{DEVKIT}.tar.gz" in message
    put_solution(tmp_path)
    (tmp_path / "val" / "another.JPEG").touch()
    with pytest.raises(ValueError, match="no list says of what class .*another.JPEG"):
        mini("ImageNet", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00garbage"])
def test_a_damaged_devkit_is_one_line(tmp_path, content):
    flat(tmp_path)
    (tmp_path / f"{DEVKIT}.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match="list of validation labels in .* is damaged .*: fetch it again"):
        mini("ImageNet", tmp_path)


def test_parts_that_are_missing(tmp_path):
    message = error_of("ImageNet", tmp_path)
    assert "neither train/ nor val/" in message and "never downloaded" in message and "image-net.org" in message
    assert "neither train/ nor val/" in error_of("ImageNet", tmp_path / "absent")
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).touch()
    assert "torchvision.datasets.ImageNet" in error_of("ImageNet", tmp_path)
    (tmp_path / "train").mkdir()
    assert "holds train/ but no val/" in error_of("ImageNet", tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "train" / "n01440764.tar").touch()
    assert "unpack each n*.tar" in error_of("ImageNet", tmp_path)
    write_tree(tmp_path / "train", WNIDS, 1, ".JPEG")
    assert "holds neither class folders nor images" in error_of("ImageNet", tmp_path)
    write_tree(tmp_path / "val", WNIDS[:1], 1, ".JPEG")
    with pytest.raises(ValueError, match="the test part has no class folder n01443537 and 1 more"):
        mini("ImageNet", tmp_path)
    shutil.rmtree(tmp_path / "train")
    assert "holds val/ but no train/" in error_of("ImageNet", tmp_path)


def test_imagenets_counts(tmp_path, monkeypatch):
    write_imagenet(tmp_path)
    message = error_of("ImageNet", tmp_path, ValueError)
    assert "has 3 classes, 1000 were published (missing: n01484850 and 996 more)" in message
    shrunk(monkeypatch, "ImageNet", classes=3)
    assert "3 training images of class n01440764, 732 to 1300 were published" in error_of("ImageNet", tmp_path, ValueError)
    shrunk(monkeypatch, "ImageNet", classes=3, train_per_class=(3, 3), train=10)
    assert "9 training images, 10 were published (1 are missing): unpack" in error_of("ImageNet", tmp_path, ValueError)
    shrunk(monkeypatch, "ImageNet", classes=3, train_per_class=(3, 3), train=9)
    assert "1 test images of class n01440764, 50 were published" in error_of("ImageNet", tmp_path, ValueError)
    shrunk(monkeypatch, "ImageNet", classes=3, train_per_class=(3, 3), train=9, test_per_class=(1, 1), test=3)
    assert len(zoo.load("ImageNet", str(tmp_path)).train) == 9


def test_the_second_start_reads_no_class_folder(tmp_path, monkeypatch):
    write_imagenet(tmp_path)
    for folder in [*tmp_path.glob("train/*"), *tmp_path.glob("val/*")]:
        os.utime(folder, (1e9, 1e9))
    monkeypatch.setattr(imagenet, "listed", lambda folders, root: folder_index.listed(folders, root, 0))
    first = mini("ImageNet", tmp_path)
    (tmp_path / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").unlink()
    os.utime(tmp_path / "train" / WNIDS[0], (1e9, 1e9))  # unseen, so that the index is known to have been used
    again = mini("ImageNet", tmp_path)
    assert again.train.paths == first.train.paths and again.test.paths == first.test.paths
    write_imagenet(tmp_path)
    (tmp_path / "val" / WNIDS[2] / "more.JPEG").touch()
    assert class_counts(mini("ImageNet", tmp_path).test) == [1, 1, 2]


# --- ImageNet-100 ---------------------------------------------------------------------------------------------------


def test_imagenet100_by_its_list(tmp_path):
    write_imagenet(tmp_path)
    (tmp_path / "imagenet100.txt").write_text(f"{WNIDS[2]} Chihuahua\n\n{WNIDS[0]}\n")
    data = mini("ImageNet100", tmp_path)
    assert data.classes == (WNIDS[0], WNIDS[2]) and class_counts(data.train) == [3, 3] and class_counts(data.test) == [1, 1]
    assert data.train.paths[3].endswith(f"train/{WNIDS[2]}/{WNIDS[2]}_0.JPEG")
    shutil.rmtree(tmp_path / "val" / WNIDS[0])
    assert f"val/ lacks 1 of the 2 classes, the first is {WNIDS[0]}" in error_of("ImageNet100", tmp_path)


def test_imagenet100_is_what_train_holds(tmp_path):
    write_imagenet(tmp_path)
    write_tree(tmp_path / "val", ["n09999999"], 1, ".JPEG")  # the whole validation set beside 100 training classes
    assert mini("ImageNet100", tmp_path).classes == tuple(WNIDS)


def test_imagenet100_of_flat_validation_images(tmp_path):
    flat(tmp_path)
    put_solution(tmp_path)
    (tmp_path / "imagenet100.txt").write_text("\n".join(WNIDS[1:]))
    assert mini("ImageNet100", tmp_path).test.targets.tolist() == [0, 0, 1]


def test_imagenet100_as_on_kaggle(tmp_path):
    write_tree(tmp_path / "train.X1", WNIDS[2:], 2, ".JPEG")
    write_tree(tmp_path / "train.X2", WNIDS[:2], 2, ".JPEG")
    write_tree(tmp_path / "val.X", WNIDS, 1, ".JPEG")
    data = mini("ImageNet100", tmp_path)
    assert data.classes == tuple(WNIDS) and files_of(data.train, tmp_path)[0] == f"train.X2/{WNIDS[0]}/{WNIDS[0]}_0.JPEG"


@pytest.mark.parametrize(
    ("text", "found"), [(f"{WNIDS[0]}\ntench", "found 'tench'"), (f"{WNIDS[0]} a\n{WNIDS[0]} b", "found 'n01440764 b'"),
                        (f"{WNIDS[0]}7", "found"), ("\n", "but it is empty")],
)  # fmt: skip
def test_a_list_that_is_none(tmp_path, text, found):
    write_imagenet(tmp_path)
    (tmp_path / "imagenet100.txt").write_text(text)
    with pytest.raises(ValueError, match=f"imagenet100.txt: each line must begin with another wnid such as n01440764, {found}"):
        mini("ImageNet100", tmp_path)


def test_imagenet100_counts(tmp_path, monkeypatch):
    write_imagenet(tmp_path)
    assert "has 3 classes, 100 were published" in error_of("ImageNet100", tmp_path, ValueError)
    for k in range(101):
        (tmp_path / "train" / f"n1{k:07d}").mkdir()
    assert f"into {tmp_path / 'imagenet100.txt'}" in error_of("ImageNet100", tmp_path, ValueError)
    (tmp_path / "imagenet100.txt").write_text("\n".join(WNIDS))
    shrunk(monkeypatch, "ImageNet100", classes=3)
    assert "3 training images of class n01440764, 732 to 1300 were" in error_of("ImageNet100", tmp_path, ValueError)
    shrunk(monkeypatch, "ImageNet100", classes=3, train_per_class=(3, 3), test_per_class=(1, 1))
    assert "3 test images, 5000 were published" in error_of("ImageNet100", tmp_path, ValueError)


# --- Mini-ImageNet --------------------------------------------------------------------------------------------------


def parts_of_classes(root: Path) -> None:
    """The few-shot split: other classes in each part, 6 images each."""
    for part, wnid in zip(("train", "val", "test"), WNIDS, strict=True):
        write_tree(root / part, [wnid], 6)


def lists_and_images(root: Path) -> None:
    write_tree(root / "made", WNIDS, 6)
    (root / "images").mkdir()
    for path in root.glob("made/*/*"):
        path.rename(root / "images" / path.name)
    shutil.rmtree(root / "made")
    for part, wnid in zip(("train", "val", "test"), WNIDS, strict=True):
        rows = [f"{wnid}_{k}.jpg,{wnid}" for k in reversed(range(6))]
        (root / f"{part}.csv").write_text("\n".join(["filename,label", *rows, ""]))


def pile(root: Path) -> None:
    write_tree(root, WNIDS, 6)


@pytest.mark.parametrize("layout", [parts_of_classes, lists_and_images, pile])
def test_all_classes_of_miniimagenet_are_joined_and_split_alike(tmp_path, layout):
    layout(tmp_path)
    data = mini("MiniImageNet", tmp_path)
    assert data.classes == tuple(WNIDS) and class_counts(data.train) == [5] * 3 and class_counts(data.test) == [1] * 3
    assert [Path(path).name for path in data.test.paths] == [f"{WNIDS[0]}_4.jpg", f"{WNIDS[1]}_5.jpg", f"{WNIDS[2]}_0.jpg"]
    for images in (data.train, data.test):
        assert [Path(path).name.split("_")[0] for path in images.paths] == [data.classes[target] for target in images.targets]


@pytest.mark.parametrize("test", ["test", "val"])
def test_miniimagenet_that_is_split_already(tmp_path, test):
    write_tree(tmp_path / "train", WNIDS, 5)
    write_tree(tmp_path / test, WNIDS, 1, first=5)
    data = mini("MiniImageNet", tmp_path)
    assert files_of(data.test, tmp_path) == [f"{test}/{wnid}/{wnid}_5.jpg" for wnid in WNIDS] and len(data.train) == 15


def test_miniimagenet_says_what_is_wrong(tmp_path, monkeypatch):
    message = error_of("MiniImageNet", tmp_path)
    assert "no train/" in message and "images/ with train.csv, val.csv, test.csv" in message
    assert "no such folder" in error_of("MiniImageNet", tmp_path / "absent")
    lists_and_images(tmp_path)
    (tmp_path / "images" / f"{WNIDS[0]}_0.jpg").unlink()
    assert f"1 files of the lists are not in images/, the first is {WNIDS[0]}_0.jpg" in error_of("MiniImageNet", tmp_path)
    (tmp_path / "val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="val.csv is no list with the columns filename,label"):
        mini("MiniImageNet", tmp_path)
    (tmp_path / "val.csv").unlink()
    assert "images/ without its lists" in error_of("MiniImageNet", tmp_path)
    write_tree(tmp_path / "train", WNIDS[:2], 5)
    assert "train/ but no test/ or val/" in error_of("MiniImageNet", tmp_path)
    write_tree(tmp_path / "val", WNIDS[2:], 5)
    write_tree(tmp_path / "test", WNIDS[2:], 5)
    with pytest.raises(ValueError, match="share some classes"):
        mini("MiniImageNet", tmp_path)


def test_miniimagenets_counts(tmp_path, monkeypatch):
    pile(tmp_path)
    assert "3 classes, 100 were published" in error_of("MiniImageNet", tmp_path, ValueError)
    shrunk(monkeypatch, "MiniImageNet", classes=3)
    assert f"5 training images of class {WNIDS[0]}, 500 were published" in error_of("MiniImageNet", tmp_path, ValueError)
    shrunk(monkeypatch, "MiniImageNet", classes=3, train_per_class=(5, 5), test_per_class=(1, 1), train=16)
    assert "15 training images, 16 were published (1 are missing)" in error_of("MiniImageNet", tmp_path, ValueError)
