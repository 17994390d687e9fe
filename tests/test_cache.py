"""`--cache`: the same pixels as the files, one build for all runs, and one line for whatever is wrong with it."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import only_run
from PIL import Image

from ssl_bench import catalog, launch
from ssl_bench.augment.views import build_view
from ssl_bench.datasets import cache, image_folder, pixel_file
from ssl_bench.datasets.cache import key_of, shorten, shortened_size, with_cache
from ssl_bench.datasets.decode import UnreadableImage, decode
from ssl_bench.datasets.file_lock import FileLock
from ssl_bench.pools import make_pools, with_true_labels
from ssl_bench.streams import EndlessOrder, Stream, endless_plans

CPU = torch.device("cpu")
VIEWS = tuple(
    build_view(name, image_size=12, resizing="default", mean=(0.5,) * 3, std=(0.5,) * 3, policy="rand-m10-n2-mstd2")
    for name in ("weak", "strong")
)


def make_folder(root: Path, side: int = 24, per_class: int = 6) -> Path:
    """Photographs would do as well: waves of random phase, 24 to 27 pixels high, 30 wide; some PNG, some JPEG."""
    random = np.random.RandomState(0)
    for part, count in (("train", per_class), ("test", 2)):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                y, x = np.mgrid[: side + i % 4, : side + 6]
                waves = [127 + 90 * np.sin(x / 3 + y / (4 + c) + random.uniform(0, 6)) for c in range(3)]
                suffix = "png" if i % 2 else "jpg"
                Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(root / part / name / f"{i}.{suffix}")
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return make_folder(tmp_path / "data")


@pytest.fixture
def data(root):
    return image_folder.load(str(root))


def cached(data, root, size=256, where="disk", folder=None):
    return with_cache(data, where, size, folder, str(root))


def cache_files(root: Path) -> list[Path]:
    return sorted((root / cache.FOLDER).glob("*.pixels"))


def take(images, n=3, workers=0, views=VIEWS):
    plans = endless_plans(EndlessOrder(len(images), 5, 0, 1), 0)
    return list(itertools.islice(Stream(images, views, plans, (0, 1), CPU, workers), n))


def assert_same_batches(ours, theirs) -> None:
    for (views_a, targets_a, ids_a), (views_b, targets_b, ids_b) in zip(ours, theirs, strict=True):
        assert torch.equal(ids_a, ids_b) and torch.equal(targets_a, targets_b)
        assert all(torch.equal(a, b) for a, b in zip(views_a, views_b, strict=True))


# What is in it


def test_images_not_larger_than_the_cache_size_are_kept_byte_for_byte(data, root):
    kept = cached(data, root)
    for i in range(len(data.train)):
        assert torch.equal(kept.train.load(i), data.train.load(i)) and kept.train.load(i).stride() == data.train.load(i).stride()
    assert_same_batches(take(kept.train), take(data.train))
    assert np.array_equal(kept.train.targets, data.train.targets)


def test_larger_images_are_shortened_by_pillow(data, root):
    small = cached(data, root, 16)
    for i, path in enumerate(data.train.paths):
        with Image.open(path) as picture:
            size = shortened_size(picture.height, picture.width, 16)[::-1]
            want = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        assert np.array_equal(small.train.load(i).permute(1, 2, 0).numpy(), want) and min(size) == 16


@pytest.mark.parametrize(
    ("size", "want"), [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((256, 900), (256, 900)), ((9, 2000), (9, 2000)),
                       ((257, 257), (256, 256)), ((300, 90_000), (256, 76_800))]
)  # fmt: skip
def test_shortened_size(size, want):
    assert shortened_size(*size, 256) == want


def test_test_images_stay_files_and_resident_sets_stay_resident(data, root, digits, capsys):
    assert cached(data, root).test is data.test
    assert with_cache(digits, "disk", 256, None, None) is digits
    assert "--cache disk is not needed" in capsys.readouterr().out


def test_pools_of_a_cached_set(data, root):
    kept = cached(data, root)
    pools, plain = make_pools(kept, 2, 0), make_pools(data, 2, 0)
    for ours, theirs in ((pools.labeled, plain.labeled), (pools.unlabeled, plain.unlabeled)):
        assert all(torch.equal(ours.load(i), theirs.load(i)) for i in range(len(theirs)))
    assert len(with_true_labels(pools).labeled) == 12
    other = cached(data, root, 16)
    with pytest.raises(ValueError, match="one cache"):
        with_true_labels(dataclasses.replace(pools, unlabeled=other.train, unlabeled_ids=np.arange(len(other.train))))


def test_further_unlabelled_images_lie_in_the_same_file(root):
    (root / "unlabelled").mkdir()
    shutil.copy(root / "train" / "ant" / "1.png", root / "unlabelled" / "x.png")
    data = image_folder.load(str(root))
    kept = cached(data, root)
    assert torch.equal(kept.unlabeled.load(0), data.unlabeled.load(0)) and len(cache_files(root)) == 1
    pools = make_pools(kept, 2, 0)
    assert torch.equal(pools.unlabeled.load(len(pools.unlabeled) - 1), data.unlabeled.load(0))


# Workers


@pytest.mark.parametrize("kind", ["files", "cached"])
def test_the_number_of_workers_changes_nothing(data, root, kind, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    images = (data if kind == "files" else cached(data, root, 16)).train
    alone = take(images)
    assert_same_batches(take(images, workers=1), alone)
    assert_same_batches(take(images, workers=2), alone)


@pytest.mark.parametrize(("method", "where"), [("spawn", "ram"), ("forkserver", "disk")])
@pytest.mark.slow
def test_other_starts_of_workers_map_the_file_again(data, root, method, where):
    images = cached(data, root, 16, where).train
    alone = take(images, 1, views=VIEWS[:1])
    assert len(pickle.dumps(images.cached)) < 1500  # the name of the file, not its pixels
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        assert_same_batches(take(images, 1, workers=1, views=VIEWS[:1]), alone)
    finally:
        multiprocessing.set_start_method(before, force=True)


# One build for all


def test_a_second_run_decodes_nothing(data, root, monkeypatch, capsys):
    first = cached(data, root, 16)
    monkeypatch.setattr(cache, "decode", None)
    assert torch.equal(cached(data, root, 16).train.load(3), first.train.load(3))
    assert capsys.readouterr().out.count("decoding 12 images once") == 1


BUILD = """
import sys
from ssl_bench.datasets import cache, image_folder
data = cache.with_cache(image_folder.load(sys.argv[1]), sys.argv[2], 16, None, sys.argv[1])
print("sum", sum(int(data.train.load(i).sum()) for i in range(len(data.train))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "ram"])
def test_two_runs_at_once_share_one_build(tmp_path, where):
    root = make_folder(tmp_path / "data", side=40, per_class=60)
    argv = [sys.executable, "-c", BUILD, str(root), where]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({line for text in texts for line in text.splitlines() if line.startswith("sum")}) == 1
    if where == "disk":
        assert sum("decoding 120 images once" in text for text in texts) == 1
        assert len(cache_files(root)) == 1
    assert not [path for path in Path("/dev/shm").glob("ssl-bench-*") if key_of_folder(root) in path.name]


def key_of_folder(root: Path, size: int = 16) -> str:
    return key_of(image_folder.load(str(root)).train.paths, size).hex()[:16]


def test_a_run_waits_for_the_one_that_builds(data, root, capsys):
    folder = root / cache.FOLDER
    folder.mkdir()
    name = f"16-{key_of(data.train.paths, 16).hex()[:16]}.pixels.lock"
    lock = FileLock(folder / name)
    lock.exclusive("")
    process = subprocess.Popen([sys.executable, "-u", "-c", BUILD, str(root), "disk"], stdout=subprocess.PIPE, text=True)
    assert "waiting for another run" in process.stdout.readline()
    cached_now = cache._built(folder / name.removesuffix(".lock"), data.train.paths, 16, key_of(data.train.paths, 16), "")
    lock.close()
    assert "decoding" not in process.communicate(timeout=60)[0] and process.returncode == 0 and len(cached_now) == 12


def test_memory_is_given_back_by_the_last_run_only(data, root):
    first, second = cached(data, root, 16, "ram"), cached(data, root, 16, "ram")
    path, pixels = first.train.cached.file.path, first.train.load(0)
    del first
    assert path.exists() and torch.equal(second.train.load(0), pixels)
    del second
    assert not path.exists() and not Path(f"{path}.lock").exists()


def test_what_a_killed_run_left_in_memory_is_removed(data, root):
    left = cached(data, root, 16, "ram").train.cached.file.path  # gone with its data set; now as if killed:
    for path in (left, Path(f"{left}.lock"), left.with_name(f".{left.name}.1.tmp")):
        path.write_bytes(b"x")
    other = cached(data, root, 17, "ram")
    assert not left.exists() and not Path(f"{left}.lock").exists() and not left.with_name(f".{left.name}.1.tmp").exists()
    assert other.train.load(0).shape[1] == 17


def test_a_change_in_the_set_makes_another_cache(data, root):
    cached(data, root, 16), cached(data, root, 17)
    assert len(cache_files(root)) == 2
    Image.new("RGB", (31, 30)).save(root / "train" / "ant" / "0.jpg")
    assert int(cached(data, root, 16).train.load(0).sum()) == 0 and len(cache_files(root)) == 3


def test_a_moved_set_keeps_its_key(data, root):
    moved = shutil.copytree(root, root.parent / "elsewhere", copy_function=shutil.copy2)
    assert key_of(image_folder.load(str(moved)).train.paths, 16) == key_of(data.train.paths, 16)


# Bad files


def spoilt(path: Path, what: str) -> None:
    content = bytearray(path.read_bytes())
    if what == "truncated":
        content = content[:-5]
    elif what == "header only":
        content = content[:30]
    elif what == "empty":
        content = b""
    elif what == "index":
        content[100] ^= 1
    elif what == "pixels":
        content[-1] ^= 1
    elif what == "foreign":
        content[:8] = b"PNG_____"
    elif what == "version":
        content[8] = 99
    elif what == "another set":
        content[20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("where", ["disk", "ram"])
@pytest.mark.parametrize("what", ["truncated", "header only", "empty", "index", "pixels", "foreign", "version", "another set"])
def test_a_bad_cache_is_built_again_with_one_line(data, root, what, where, capsys):
    good = cached(data, root, 16, where)
    path, pixels = good.train.cached.file.path, good.train.load(11)
    spoilt(shutil.copy(path, root / "copy"), what)
    del good
    shutil.copy(root / "copy", path)
    again = cached(data, root, 16, where)
    assert torch.equal(again.train.load(11), pixels)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(path) in lines[0] and "built again" in lines[0]


def test_a_cut_build_leaves_no_cache(data, root, monkeypatch):
    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "shorten", cut)
    with pytest.raises(KeyboardInterrupt):
        cached(data, root)
    assert not cache_files(root) and not list((root / cache.FOLDER).glob(".*.tmp"))
    (root / cache.FOLDER / f".{256}-{key_of(data.train.paths, 256).hex()[:16]}.pixels.77.tmp").write_bytes(b"left by kill -9")
    monkeypatch.undo()
    cached(data, root)
    assert len(cache_files(root)) == 1 and not list((root / cache.FOLDER).glob(".*.tmp"))


# Bad places


def assert_decodes_instead(kept, data, capsys, *words: str) -> None:
    assert kept is data
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: no cache: ") and "decoded each time" in lines[0]
    assert all(word in lines[0] for word in words)


@pytest.mark.parametrize("where", ["disk", "ram"])
def test_no_space_before_the_build(data, root, where, monkeypatch, capsys):
    monkeypatch.setattr(cache, "_bytes_free", lambda _: 1000)
    kept = cached(data, root, 16, where)
    assert_decodes_instead(kept, data, capsys, "GiB free", "--cache-size 16", *["--cache disk"] * (where == "ram"))
    assert not cache_files(root)


def test_no_space_during_the_build(data, root, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pixel_file, "write", full)
    assert_decodes_instead(cached(data, root), data, capsys, "No space left")
    assert not cache_files(root) and not list((root / cache.FOLDER).glob(".*.tmp"))


def test_the_estimate_is_near_the_truth(data, root):
    needed = cache._bytes_needed(data.train.paths, 16)
    assert cached(data, root, 16) and 0.9 < needed / (cache_files(root)[0].stat().st_size - 4096) < 1.1


def unwritable(*folders: Path):
    """mkdir as on a read-only disk: permissions do not stop root, who may run the tests."""
    honest = Path.mkdir

    def mkdir(self, *args, **options):
        if any(folder in (self, *self.parents) for folder in folders):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        honest(self, *args, **options)

    return mkdir


def test_an_unwritable_data_folder_sends_the_cache_to_the_users_own(data, root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(Path, "mkdir", unwritable(root))
    kept = cached(data, root, 16)
    assert kept.train.cached.file.path.parent == tmp_path / "own" / "ssl-bench" and capsys.readouterr().err == ""
    monkeypatch.setattr(Path, "mkdir", unwritable(root, tmp_path / "own"))
    assert cached(data, root, 16).train.cached.file.path == kept.train.cached.file.path  # reading needs no permission to write
    assert_decodes_instead(cached(data, root, 17), data, capsys, "--cache-dir")


def test_a_given_folder_that_is_not_writable_is_refused(data, root, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", unwritable(tmp_path / "given"))
    with pytest.raises(OSError, match="--cache-dir .*given is not writable: Permission denied"):
        cached(data, root, folder=str(tmp_path / "given"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="--cache-dir .*file is not writable"):
        cached(data, root, folder=str(tmp_path / "file"))


@pytest.mark.parametrize("where", ["disk", "ram"])
def test_a_broken_image_met_while_building_has_its_usual_line(data, root, where):
    path = root / "train" / "bee" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnreadableImage) as while_building:
        cached(data, root, 16, where)
    with pytest.raises(UnreadableImage) as as_today:
        decode(str(path))
    assert str(while_building.value) == str(as_today.value)
    assert not cache_files(root) and not list(Path("/dev/shm").glob(f"*{key_of(data.train.paths, 16).hex()[:16]}*"))


# Through the command line

RUN = ("--data ImageFolder --all-labeled --image-size 12 --arch test_resnet --scratch --bottleneck-dim 0 --batch-size 4 "
       "--epochs 2 --iters-per-epoch 3 --device cpu --workers 1 --recipe none").split()  # fmt: skip


def run(root: Path, *argv: str) -> Path:
    assert launch.run_command(catalog.load_method("erm"), [str(root), *RUN, *argv]) == 0
    return only_run(Path(argv[argv.index("--log") + 1]))


def test_runs_with_and_without_a_cache(root, capsys):
    plain, disk, ram = (run(root, "--log", name, "--cache", name, "--cache-size", "64") for name in ("none", "disk", "ram"))
    assert disk.name == ram.name != plain.name  # the cache's size may change the pixels, its place cannot
    weights = [(folder / "metrics.jsonl").read_text() for folder in (plain, disk, ram)]
    assert weights[0] == weights[1] == weights[2]  # no image is larger than 64
    assert capsys.readouterr().out.count("decoding 12 images once") == 2
    assert not list(Path("/dev/shm").glob(f"ssl-bench-*{key_of_folder(root, 64)}*"))


def test_a_cache_smaller_than_the_crops_is_refused(root, capsys):
    argv = [str(root), *RUN, "--cache", "disk", "--cache-size", "11"]
    assert launch.run_command(catalog.load_method("erm"), argv) == 2
    assert "--cache-size 11 is smaller than --image-size 12" in capsys.readouterr().err


def test_shorten_keeps_one_pixel_at_least():
    assert shorten(torch.zeros(3, 4000, 3, dtype=torch.uint8), 2).shape == (2667, 2, 3)
