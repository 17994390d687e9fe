"""The remembered listing: what it finds, what it reads again, and that nothing wrong with its file matters."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ssl_bench.datasets import folder_index
from ssl_bench.datasets.folder_index import listed


@pytest.fixture
def tree(tmp_path):
    """Three folders, last changed long ago."""
    for name, count in (("a", 3), ("b", 2), ("c", 0)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in reversed(range(count)):
            (tmp_path / "data" / name / f"{name}_{k}.JPEG").touch()
    (tmp_path / "data" / "a" / ".hidden.jpg").touch()
    (tmp_path / "data" / "a" / "notes.txt").touch()
    for name in "abc":
        os.utime(tmp_path / "data" / name, (1e9, 1e9))
    return tmp_path / "data"


def names(tree: Path, worth_keeping: int = 0) -> list[list[str]]:
    return listed([str(tree / name) for name in "abc"], str(tree), worth_keeping)


def index_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("names-*.json"))


EXPECTED = [["a_0.JPEG", "a_1.JPEG", "a_2.JPEG"], ["b_0.JPEG", "b_1.JPEG"], []]


@pytest.fixture
def read(monkeypatch):
    """The folders that are read from now on."""
    seen, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: seen.append(os.path.basename(folder)) or scandir(folder))
    return seen


def test_images_sorted_and_read_once(tree, read):
    assert names(tree) == EXPECTED and sorted(read) == ["a", "b", "c"]
    read.clear()
    assert names(tree) == EXPECTED and read == []
    assert index_files(tree)[0].parent == tree / ".ssl-bench-cache"


def test_only_what_changed_is_read_again(tree, read):
    names(tree)
    (tree / "b" / "b_5.jpg").touch()
    read.clear()
    assert names(tree)[1] == ["b_0.JPEG", "b_1.JPEG", "b_5.jpg"] and read == ["b"]
    os.rename(tree / "b" / "b_0.JPEG", tree / "b" / "z.JPEG")
    assert names(tree)[1] == ["b_1.JPEG", "b_5.jpg", "z.JPEG"]
    os.remove(tree / "a" / "a_1.JPEG")
    os.utime(tree / "a", (2e9, 2e9))
    assert names(tree)[0] == ["a_0.JPEG", "a_2.JPEG"]


def test_a_folder_changed_a_moment_ago_is_not_trusted(tree, read):
    """A file that comes within the clock's tick would leave the folder's time as it is."""
    (tree / "b" / "b_9.JPEG").touch()
    just_now = os.stat(tree / "b").st_mtime_ns
    names(tree)
    (tree / "b" / "late.JPEG").touch()
    os.utime(tree / "b", ns=(just_now, just_now))
    read.clear()
    assert names(tree)[1] == ["b_0.JPEG", "b_1.JPEG", "b_9.JPEG", "late.JPEG"] and read == ["b"]
    assert names(tree)[0] == EXPECTED[0] and "a" not in read


def test_other_folders_of_the_root_stay_in_the_index(tree, read):
    names(tree)
    (tree / "d").mkdir()
    os.utime(tree / "d", (1e9, 1e9))
    listed([str(tree / "d"), str(tree / "a")], str(tree), 0)
    (tree / "c").rmdir()
    read.clear()
    assert listed([str(tree / name) for name in "abd"], str(tree), 0) == [*EXPECTED[:2], []] and read == []
    os.utime(tree / "a", (2e9 - 1, 1e9 - 1))
    listed([str(tree / "a")], str(tree), 0)
    assert set(json.loads(index_files(tree)[0].read_bytes())["folders"]) == {"a", "b", "d"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version": 1}',
     b'{"version": 0, "folders": {"a": [1000000000000000000, "x.jpg"]}}',
     b'{"version": 1, "folders": {"a": 3, "b": [1], "c": ["x", "y"]}}', b'{"version": 1, "folders": ["a"]}'],
)  # fmt: skip
def test_an_index_with_anything_else_in_it_is_made_anew(tree, content, read):
    names(tree)
    (path,) = index_files(tree)
    path.write_bytes(content)
    assert names(tree) == EXPECTED
    read.clear()
    assert names(tree) == EXPECTED and read == []


def test_where_nothing_can_be_written_every_start_reads_all(tree, monkeypatch, tmp_path, read):
    (tree / ".ssl-bench-cache").touch()  # as good as no permission, for root too
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    names(tree)
    assert len(index_files(tmp_path / "mine")) == 1
    read.clear()
    assert names(tree) == EXPECTED and read == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "a" / "notes.txt"))
    for _ in range(2):
        read.clear()
        assert names(tree) == EXPECTED and sorted(read) == ["a", "b", "c"]


def test_a_small_set_leaves_no_index(tree):
    assert listed([str(tree / "a")], str(tree)) == EXPECTED[:1] and not index_files(tree)
    assert folder_index.WORTH_KEEPING < 1_281_167


def test_names_that_are_no_text_survive(tree, read):
    odd = os.fsencode(str(tree / "c")) + b"/\xff\xe9 \".jpg"
    Path(os.fsdecode(odd)).touch()
    os.utime(tree / "c", (1e9, 1e9))
    first = names(tree)
    read.clear()
    assert names(tree) == first and read == [] and os.path.exists(os.path.join(tree, "c", first[2][0]))


def test_a_folder_that_is_gone(tree):
    names(tree)
    (tree / "c").rmdir()
    with pytest.raises(FileNotFoundError):
        names(tree)
