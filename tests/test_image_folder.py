"""ImageFolder: both layouts, order, memory or files, broken files, and the mistakes users make."""
from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_bench import zoo
from ssl_bench.datasets import image_folder, listing, resident
from ssl_bench.datasets.decode import UnreadableImage

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def write(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """A picture of one grey value, so that a test can tell which file a row came from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def standard(root: Path, test: str = "test", size: tuple[int, int] = (8, 8)) -> Path:
    for part, first in (("train", 0), (test, 100)):
        for c, name in enumerate(("ant", "bee", "cat")):
            for i in range(4):
                write(root / part / name / f"{i}.png", first + 10 * c + i, size)
    return root


def user_layout(root: Path, labelled: str = "labelled", unlabelled: str = "unlabelled") -> Path:
    standard(root)
    (root / "train").rename(root / labelled)
    for i, name in enumerate(("a.png", "deep/er/b.png", "c.PNG")):
        write(root / unlabelled / name, 200 + i)
    return root


def values(images) -> list[int]:
    return [int(images.load(i)[0, 0, 0]) for i in range(len(images))]


def in_two_forms(root: Path):
    """The same set in memory and as files."""
    memory, files = image_folder.load(str(root)), image_folder.load(str(root), limit_bytes=0)
    assert memory.train.pixels is not None and files.train.paths is not None
    return memory, files


@pytest.mark.parametrize("test", ["test", "val"])
def test_train_and_test_layout(tmp_path, test):
    for data in in_two_forms(standard(tmp_path, test)):
        assert data.name == "ImageFolder" and data.classes == ("ant", "bee", "cat") and not data.labeled_given
        assert data.train.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4 == data.test.targets.tolist()
        assert data.train.targets.dtype == np.int64
        assert values(data.train) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
        assert values(data.test) == [v + 100 for v in values(data.train)]
        assert data.unlabeled is None and data.broken == ()


@pytest.mark.parametrize("names", [("labelled", "unlabelled"), ("labeled", "unlabeled"), ("labelled", "unlabeled")])
def test_labelled_and_unlabelled_layout(tmp_path, names):
    for data in in_two_forms(user_layout(tmp_path, *names)):
        assert data.labeled_given and len(data.train) == 12
        assert values(data.unlabeled) == [200, 202, 201]  # by folder, then by name
        assert data.unlabeled.targets.tolist() == [-1] * 3


def test_train_layout_takes_further_unlabelled_images(tmp_path):
    standard(tmp_path)
    write(tmp_path / "unlabelled" / "x.png", 7)
    data = image_folder.load(str(tmp_path))
    assert not data.labeled_given and values(data.unlabeled) == [7]


def test_test_folder_wins_over_val(tmp_path):
    write(standard(tmp_path) / "val" / "dog" / "0.png")
    assert len(image_folder.load(str(tmp_path)).test) == 12


def test_nested_images_hidden_and_other_files(tmp_path):
    standard(tmp_path)
    write(tmp_path / "train" / "ant" / "more" / "x.png", 5)
    write(tmp_path / "train" / "ant" / ".hidden.png")
    write(tmp_path / "train" / ".cache" / "y.png")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "Thumbs.db").write_text("no image")
    data = image_folder.load(str(tmp_path))
    assert data.classes == ("ant", "bee", "cat") and values(data.train)[:6] == [0, 1, 2, 3, 5, 10]


def test_order_and_pixels_equal_torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    standard(tmp_path)
    for name in ("b/1.png", "b-c/1.png", "b/d/1.png", "B.png", "10.png"):
        write(tmp_path / "train" / "bee" / name, len(name))
    reference = torchvision.datasets.ImageFolder(str(tmp_path / "train"))
    data = image_folder.load(str(tmp_path), limit_bytes=0)
    assert list(data.train.paths) == [path for path, _ in reference.samples]
    assert data.train.targets.tolist() == reference.targets


class _Shuffled(list):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    user_layout(tmp_path)
    expected = image_folder.load(str(tmp_path), limit_bytes=0)
    scandir, listdir, coin = os.scandir, os.listdir, random.Random(0)

    def shuffled(entries):
        entries = list(entries)
        coin.shuffle(entries)
        return _Shuffled(entries)

    monkeypatch.setattr(os, "scandir", lambda *a: shuffled(scandir(*a)))
    monkeypatch.setattr(os, "listdir", lambda *a: shuffled(listdir(*a)))
    for _ in range(5):
        data = image_folder.load(str(tmp_path), limit_bytes=0)
        for part in ("train", "test", "unlabeled"):
            assert getattr(data, part).paths == getattr(expected, part).paths


def test_a_link_to_a_folder_above_does_not_loop(tmp_path):
    write(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "y.png")
    (tmp_path / "a" / "side").symlink_to(tmp_path / "elsewhere")
    found = listing.image_files(str(tmp_path / "a"))
    assert [os.path.relpath(path, tmp_path / "a") for path in found] == ["b/x.png", "side/y.png"]


# --- in memory or on disk -------------------------------------------------------------------------------------------


def test_limit_is_on_all_parts_together(tmp_path):
    user_layout(tmp_path)
    total = (12 + 12 + 3) * 3 * 8 * 8
    assert image_folder.load(str(tmp_path), limit_bytes=total).train.pixels is not None
    data = image_folder.load(str(tmp_path), limit_bytes=total - 1)
    assert data.train.paths and data.test.paths and data.unlabeled.paths


def test_one_image_of_another_size_anywhere_keeps_files(tmp_path):
    write(user_layout(tmp_path) / "unlabelled" / "z.png", 0, (8, 9))
    data = image_folder.load(str(tmp_path))
    assert data.train.paths and data.test.paths and data.unlabeled.paths


@pytest.mark.parametrize("turned", [1, 24])
def test_sizes_count_after_exif_rotation(tmp_path, turned):
    standard(tmp_path, size=(6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in sorted(tmp_path.rglob("*.png"))[:turned]:
        Image.open(path).save(path, exif=exif)
    data = image_folder.load(str(tmp_path))
    if turned == 1:
        assert data.train.paths is not None
        assert [tuple(data.test.load(i).shape) for i in range(12)] == [(3, 6, 4)] + [(3, 4, 6)] * 11
    else:
        assert data.train.pixels.shape == (12, 3, 6, 4)


def test_many_threads_decode_what_one_thread_decodes(tmp_path, monkeypatch):
    noise = np.random.RandomState(0)
    files = []
    for i in range(300):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(noise.randint(0, 256, (4, 4, 3)).astype(np.uint8)).save(files[-1])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    (tensor,) = resident.decode_together([files])
    assert torch.equal(tensor, torch.stack([image_folder.Images(np.zeros(300, np.int64), paths=tuple(files)).load(i)
                                            for i in range(300)]))  # fmt: skip


# --- broken files ---------------------------------------------------------------------------------------------------


def spoil(root: Path) -> list[str]:
    whole = (root / "train/ant/1.png").read_bytes()
    (root / "train/ant/1.png").write_bytes(whole[: len(whole) // 2])
    (root / "test/cat/3.png").write_bytes(b"")
    return [str(root / "train/ant/1.png"), str(root / "test/cat/3.png")]


def test_broken_file_is_named_with_the_remedy(tmp_path):
    bad = spoil(standard(tmp_path))
    for _ in range(3):  # whichever thread is first
        with pytest.raises(UnreadableImage, match="--skip-broken") as caught:
            image_folder.load(str(tmp_path))
        assert any(path in str(caught.value) for path in bad)
    data = image_folder.load(str(tmp_path), limit_bytes=0)  # files are read when they are needed
    with pytest.raises(UnreadableImage, match="ant/1.png"):
        data.train.load(1)


def test_skip_broken_leaves_out_and_reports(tmp_path):
    bad = spoil(standard(tmp_path))
    for limit in (0, 2**30):
        data = image_folder.load(str(tmp_path), skip_broken=True, limit_bytes=limit)
        assert list(data.broken) == bad
        assert values(data.train) == [0, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
        assert data.train.targets.tolist() == [0] * 3 + [1] * 4 + [2] * 4
        assert data.test.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 3


def test_skip_broken_finds_a_broken_unlabelled_image(tmp_path):
    (user_layout(tmp_path) / "unlabelled" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    data = image_folder.load(str(tmp_path), skip_broken=True)
    assert [os.path.basename(path) for path in data.broken] == ["broken.jpg"] and len(data.unlabeled) == 3


def test_class_or_part_with_nothing_readable(tmp_path):
    for path in (user_layout(tmp_path) / "unlabelled").rglob("*.*"):
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="unlabelled holds no readable image"):
        image_folder.load(str(tmp_path), skip_broken=True)
    for path in (tmp_path / "labelled" / "bee").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="labelled/bee holds no readable image"):
        image_folder.load(str(tmp_path), skip_broken=True)


def test_odd_images_load_together(tmp_path):
    standard(tmp_path)
    noise = np.random.RandomState(0).randint(0, 256, (8, 8, 4)).astype(np.uint8)
    ant = tmp_path / "train" / "ant"
    Image.fromarray(noise).save(ant / "rgba.png")
    Image.fromarray(noise[..., 0]).save(ant / "grey.gif")
    Image.fromarray(noise[..., :3]).convert("P").save(ant / "palette.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(ant / "deep.tiff")
    Image.fromarray(noise[..., :3]).convert("CMYK").save(ant / "print.JPEG")
    data = image_folder.load(str(tmp_path))
    assert data.train.pixels.shape == (17, 3, 8, 8)
    assert np.array_equal(data.train.pixels[4].numpy(), np.repeat(noise[None, ..., 0], 3, 0))  # deep.tiff


# --- mistakes -------------------------------------------------------------------------------------------------------


def error_of(root) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        image_folder.load(str(root))
    message = str(caught.value)
    assert "\n" not in message and str(root) in message
    return message


def test_missing_empty_or_file_root(tmp_path):
    assert "no folder" in error_of(tmp_path / "nope") and "labelled/<class>" in error_of(tmp_path / "nope")
    (tmp_path / "empty").mkdir()
    assert "it is empty" in error_of(tmp_path / "empty")
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "is a file, not a folder" in error_of(tmp_path / "data.zip")
    with pytest.raises(FileNotFoundError):
        image_folder.load(str(tmp_path / "nope"))
    with pytest.raises(NotADirectoryError):
        image_folder.load(str(tmp_path / "data.zip"))


def test_inner_and_outer_folder_given(tmp_path, monkeypatch):
    standard(tmp_path / "outer" / "flowers")
    assert f"did you mean {tmp_path / 'outer' / 'flowers'}?" in error_of(tmp_path / "outer")
    for part in ("train", "test"):
        assert f"give the folder above it, {tmp_path / 'outer' / 'flowers'}" in error_of(
            tmp_path / "outer" / "flowers" / part
        )
    monkeypatch.chdir(tmp_path / "outer" / "flowers" / "train")
    assert "give the folder above it" in error_of(".")


def test_root_without_parts_says_what_lies_there(tmp_path):
    write(tmp_path / "roses" / "1.png")
    assert "only the folders roses" in error_of(tmp_path)
    write(tmp_path / "roses" / "2.png")
    assert "only images (1.png, 2.png)" in error_of(tmp_path / "roses")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "test").rename(root / "exam"), "no test/ or val/"),
        (lambda root: write(root / "test" / "dog" / "1.png"), "dog only in"),
        (lambda root: (root / "test" / "ant").rename(root / "test" / "Ant"), "Ant only in"),
        (lambda root: (root / "train" / "dog").mkdir(), "no images in class folder"),
        (lambda root: (root / "train" / "dog" / ".x").mkdir(parents=True), "no images in class folder"),
        (lambda root: write(root / "train" / "stray.png"), "beside the class folders (stray.png)"),
        (lambda root: write(root / "labelled" / "ant" / "1.png"), "both train/ and labelled/"),
        (lambda root: (root / "unlabelled").mkdir(), "holds no images"),
        (lambda root: (root / "train").rename(root / "labelled"), "no unlabelled/"),
    ],
)
def test_wrong_trees_get_one_clear_line(tmp_path, change, expected):
    change(standard(tmp_path))
    assert expected in error_of(tmp_path)


def test_two_spellings_of_one_part(tmp_path):
    write(user_layout(tmp_path) / "unlabeled" / "1.png")
    assert "two spellings of one part" in error_of(tmp_path)


def test_images_directly_in_train(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part / "1.png")
    assert "holds images directly, without class folders (1.png)" in error_of(tmp_path)
    (tmp_path / "train" / "1.png").unlink()
    assert "train holds no class folders" in error_of(tmp_path)


def test_single_class_and_extra_level(tmp_path):
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            write(tmp_path / part / "insects" / name / "1.png")
    message = error_of(tmp_path)
    assert "single class folder (insects)" in message and "move them one level up" in message
    write(tmp_path / "train" / "insects" / "1.png")
    assert "move them" not in error_of(tmp_path)


def test_through_the_zoo(tmp_path):
    spoil(standard(tmp_path))
    assert len(zoo.load("ImageFolder", str(tmp_path), skip_broken=True).broken) == 2
    with pytest.raises(UnreadableImage):
        zoo.load("ImageFolder", str(tmp_path))


@pytest.mark.slow
def test_real_images_equal_torchvision(tmp_path):
    archive = SHARED / "tinyimagenet20_dev_imagefolder.zip"
    if not archive.exists():
        pytest.skip("no shared data here")
    torchvision = pytest.importorskip("torchvision")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path)
    root = tmp_path / "tinyimagenet20"
    data = image_folder.load(str(root))
    reference = torchvision.datasets.ImageFolder(str(root / "train"))
    assert data.train.pixels.shape == (5000, 3, 64, 64) and len(data.test) == 1000
    assert list(data.classes) == reference.classes and data.train.targets.tolist() == reference.targets
    for i in range(0, 5000, 41):
        assert np.array_equal(data.train.load(i).numpy(), np.asarray(reference[i][0]).transpose(2, 0, 1))
