"""Files over HTTP, archives, and the whole of fetching a set: what fails leaves nothing partial, and says what to do."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from loopback import serve

from ssl_bench import catalog, launch, zoo
from ssl_bench.datasets import archive, transfer
from ssl_bench.datasets import download as download_module
from ssl_bench.datasets.archive import BadArchive, unpack
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.transfer import fetch

CONTENT = np.random.RandomState(0).bytes(700_000)  # more than one block, and it does not compress
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
DEAD = "http://127.0.0.1:9/data.bin"


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as site:
        site.add("data.bin", CONTENT)
        yield site


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def failure(urls, checksum, target) -> str:
    with pytest.raises(OSError) as caught:
        fetch(urls, checksum, str(target))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One file


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_a_file_comes_whole_once_and_is_not_asked_for_again(tmp_path, site, checksum):
    for _ in range(2):
        fetch([f"{site.url}/data.bin"], checksum, str(tmp_path / "data.bin"))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert files_below(tmp_path) == ["data.bin"] and site.log == [("data.bin", None)]


def test_a_damaged_file_is_replaced(tmp_path, site):
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1])
    fetch([f"{site.url}/data.bin"], MD5, str(tmp_path / "data.bin"))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_without_a_published_checksum_the_archives_own_counts(tmp_path, site, name):
    held = io.BytesIO()
    if name.endswith("zip"):
        with zipfile.ZipFile(held, "w") as packed:
            packed.writestr("x", CONTENT)
    else:
        held.write(gzip.compress(CONTENT))
    good = held.getvalue()
    fetch([site.add(name, good)], "", str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == good
    for bad in (good[:1000] + b"?" + good[1001:], good[:-9], b"<html>not found</html>", b""):
        message = failure([site.add(f"bad-{name}", bad)], "", tmp_path / f"other-{name}")
        assert "not the published file, " in message and "damaged" in message
    assert files_below(tmp_path) == [name]


def test_what_fails_leaves_nothing_and_says_why(tmp_path, site, monkeypatch):
    monkeypatch.setattr(transfer, "STALLED_SECONDS", 0.3)
    target = tmp_path / "data.bin"
    assert f"{site.url}/none: HTTP 404" in failure([f"{site.url}/none"], MD5, target)
    assert f"its md5 is {MD5}, expected {'0' * 32}" in failure([f"{site.url}/data.bin"], "0" * 32, target)
    assert "refused" in failure([DEAD], MD5, target)
    assert "no address" in failure([], MD5, target)
    assert files_below(tmp_path) == []
    site.stall = True
    message = failure([f"{site.url}/data.bin"], MD5, target)
    assert "nothing came for 0.3 s" in message and "350,000 bytes are kept, the same command goes on" in message
    assert files_below(tmp_path) == [".data.bin.part"]


def test_a_cut_connection_goes_on_where_it_stopped(tmp_path, site):
    site.cuts = [100_000, 50_000]
    fetch([f"{site.url}/data.bin"], SHA256, str(tmp_path / "data.bin"))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and files_below(tmp_path) == ["data.bin"]
    assert [asked for _, asked in site.log] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_command_goes_on_from_what_was_kept(tmp_path, site):
    site.cuts, site.then_dead = [100_000], True
    message = failure([f"{site.url}/data.bin"], MD5, tmp_path / "data.bin")
    assert "HTTP 503" in message and "100,000 bytes are kept" in message and files_below(tmp_path) == [".data.bin.part"]
    site.then_dead = False
    fetch([f"{site.url}/data.bin"], MD5, str(tmp_path / "data.bin"))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and files_below(tmp_path) == ["data.bin"]
    assert site.log[-1] == ("data.bin", "bytes=100000-")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("kept", [CONTENT[:1000], b"of another file" * 1000, CONTENT, CONTENT + b"x"])
def test_whatever_was_kept_the_file_is_right(tmp_path, site, kept, ranges):
    site.ranges = ranges
    (tmp_path / ".data.bin.part").write_bytes(kept)
    fetch([f"{site.url}/data.bin"], MD5, str(tmp_path / "data.bin"))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and files_below(tmp_path) == ["data.bin"]
    assert len(site.log) == (1 if not ranges or kept in (CONTENT[:1000], CONTENT) else 2)


def test_a_server_without_ranges_begins_anew_and_is_not_asked_for_ever(tmp_path, site):
    site.ranges, site.cuts = False, [100_000, 100_000, 100_000]
    assert "cut after 100,000 of 700,000 bytes" in failure([f"{site.url}/data.bin"], MD5, tmp_path / "data.bin")
    assert len(site.log) == 2


def test_a_server_that_only_ever_sends_a_little_is_given_up(tmp_path, site, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    site.cuts = [10] * 9
    message = failure([f"{site.url}/data.bin"], MD5, tmp_path / "data.bin")
    assert "cut after 30 of 700,000 bytes" in message and "30 bytes are kept" in message and len(site.log) == 3


def test_another_range_than_was_asked_for_is_not_taken(tmp_path, site):
    site.wrong_range = True
    (tmp_path / ".data.bin.part").write_bytes(CONTENT[:1000])
    assert "another part of the file" in failure([f"{site.url}/data.bin"], MD5, tmp_path / "data.bin")
    assert files_below(tmp_path) == []


def test_mirrors_are_tried_in_order_and_each_failure_is_said(tmp_path, site, capsys):
    urls = [DEAD, f"{site.url}/none", f"{site.url}/data.bin"]
    fetch(urls, MD5, str(tmp_path / "data.bin"))
    begun, first, second = capsys.readouterr().out.splitlines()
    assert begun == f"fetching {DEAD}"
    assert first.startswith(f"note: {urls[0]}: ") and "refused" in first and first.endswith(f"; trying {urls[1]}")
    assert second == f"note: {urls[1]}: HTTP 404 Not Found; trying {urls[2]}"
    message = failure(urls[:2], MD5, tmp_path / "other")
    assert urls[0] in message and f"{urls[1]}: HTTP 404" in message


def test_a_mirror_goes_on_from_the_bytes_of_another(tmp_path, site):
    site.cuts = [300_000, 0]
    fetch([f"{site.url}/data.bin", f"{site.url}/data.bin?mirror"[:-7]], MD5, str(tmp_path / "data.bin"))
    assert [asked for _, asked in site.log] == [None, "bytes=300000-", "bytes=300000-"]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_full_disk_is_not_taken_for_a_broken_connection(tmp_path, site, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_bar", lambda *_: Full())
    with pytest.raises(OSError, match="No space left"):
        fetch([f"{site.url}/data.bin"] * 2, MD5, str(tmp_path / "data.bin"))
    assert len(site.log) == 1


# Archives


def tar_of(path: Path, members: dict[str, bytes | str]) -> Path:
    """A .tar(.gz) with files (bytes) and symbolic links (str)."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                packed.addfile(member)
            else:
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return path


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
def test_unpack_adds_to_what_is_there(tmp_path, name):
    (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, {"set/a/1": b"new", "set/b/2": b"two"})
    root = tmp_path / "root"
    (root / "set" / "a").mkdir(parents=True)
    (root / "set" / "a" / "1").write_bytes(b"old")
    (root / "set" / "a" / "mine").write_bytes(b"kept")
    (root / ".unpacking").mkdir()
    (root / ".unpacking" / "half").write_bytes(b"of a killed process")
    unpack(str(tmp_path / name), str(root))
    assert files_below(root) == ["set", "set/a", "set/a/1", "set/a/mine", "set/b", "set/b/2"]
    assert (root / "set" / "a" / "1").read_bytes() == b"new"


@pytest.mark.parametrize(("packed", "called"), [("a.tar.gz", "b.tar"), ("a.tar", "b.tgz")])
def test_a_tar_may_be_packed_whatever_its_name_says(tmp_path, packed, called):
    os.rename(tar_of(tmp_path / packed, {"set/1": b"one"}), tmp_path / called)
    (tmp_path / "root").mkdir()
    unpack(str(tmp_path / called), str(tmp_path / "root"))
    assert files_below(tmp_path / "root") == ["set", "set/1"]
    assert not called.endswith(".tar") or archive.crc_error(str(tmp_path / called), called) is None


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
@pytest.mark.parametrize("member", ["../evil", "set/../../evil", "/{}/evil"])
def test_no_member_lands_outside(tmp_path, name, member):
    member = member.format(str(tmp_path).lstrip("/"))
    (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, {"set/1": b"good", member: b"evil"})
    root = tmp_path / "in" / "root"
    root.mkdir(parents=True)
    if member.startswith("/") and name.endswith("gz"):
        unpack(str(tmp_path / name), str(root))  # the leading slash is taken off: it lies inside
    else:
        with pytest.raises(BadArchive, match=f"{name} cannot be unpacked: .*evil"):
            unpack(str(tmp_path / name), str(root))
        assert files_below(root) == []
    assert not (tmp_path / "evil").exists() and not (tmp_path / "in" / "evil").exists()


@pytest.mark.parametrize("target", ["/etc", "../../.."])
def test_no_link_leads_outside(tmp_path, target):
    tar_of(tmp_path / "a.tar", {"set/link": target, "set/link/evil": b"evil"})
    (tmp_path / "root").mkdir()
    with pytest.raises(BadArchive, match="a.tar cannot be unpacked"):
        unpack(str(tmp_path / "a.tar"), str(tmp_path / "root"))
    assert files_below(tmp_path / "root") == []


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, name):
    path = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, {"1": CONTENT, "2": CONTENT})
    (tmp_path / "root").mkdir()
    whole = path.read_bytes()
    for bad in (whole[:-600_000], b"", b"junk" * 1000):
        path.write_bytes(bad)
        with pytest.raises(BadArchive, match=name):
            unpack(str(path), str(tmp_path / "root"))
        assert files_below(tmp_path / "root") == []


def test_archives_in_an_archive(tmp_path):
    inner = tar_of(tmp_path / "inner.tar.gz", {"pictures/1": b"one"})
    zip_of(tmp_path / "a.zip", {"set/inner.tar.gz": inner.read_bytes(), "set/readme": b"text"})
    (tmp_path / "root").mkdir()
    unpack(str(tmp_path / "a.zip"), str(tmp_path / "root"), inner=("set/inner.tar.gz",))
    assert files_below(tmp_path / "root") == ["set", "set/pictures", "set/pictures/1", "set/readme"]


# A set


def read(root: str) -> DataSet:
    """A set of one image: an archive that makes `set/1` and a file `labels`."""
    paths = [os.path.join(root, "set", "1"), os.path.join(root, "labels")]
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no {os.path.basename(path)}")
    if Path(paths[0]).read_bytes() != b"one":
        raise FileNotFoundError("1 is damaged")
    part = Images(np.zeros(1, np.int64), paths=(paths[0],))
    return DataSet("Toy", ("a",), part, part)


@pytest.fixture
def toy(tmp_path, site):
    """The files of the toy set, as the site has them."""
    packed = tar_of(tmp_path / "set.tar.gz", {"set/1": b"one"}).read_bytes()
    os.remove(tmp_path / "set.tar.gz")
    return [
        Remote("set.tar.gz", (site.add("set.tar.gz", packed),), hashlib.md5(packed).hexdigest(), makes="set"),
        Remote("labels", (site.add("labels", b"0"),), hashlib.md5(b"0").hexdigest()),
    ]


def get(root: Path, files, download: bool = True) -> DataSet:
    return read_or_fetch("Toy", str(root), read, files, "put set.tar.gz and labels there", download)


def error_of(root: Path, files, download: bool = True) -> OSError:
    with pytest.raises(OSError) as caught:
        get(root, files, download)
    message = str(caught.value)
    assert message.startswith("Toy") and str(root) in message and message.endswith("; put set.tar.gz and labels there")
    return caught.value


def test_a_set_is_fetched_unpacked_and_then_read_without_the_network(tmp_path, site, toy):
    root = tmp_path / "new" / "root"
    for _ in range(2):
        assert len(get(root, toy).train) == 1
    assert files_below(root) == ["labels", "set", "set.tar.gz", "set/1"] and len(site.log) == 2


def test_what_is_there_is_not_fetched(tmp_path, site, toy):
    (tmp_path / "root" / "set").mkdir(parents=True)
    (tmp_path / "root" / "set" / "1").write_bytes(b"one")
    get(tmp_path / "root", toy)
    assert site.log == [("labels", None)] and files_below(tmp_path / "root") == ["labels", "set", "set/1"]


def test_what_is_damaged_is_fetched_again(tmp_path, site, toy):
    get(tmp_path / "root", toy)
    (tmp_path / "root" / "set" / "1").write_bytes(b"?")
    (tmp_path / "root" / "mine").write_bytes(b"kept")
    get(tmp_path / "root", toy)
    assert len(site.log) == 2 and (tmp_path / "root" / "mine").exists()  # from the archive, which is still there
    (tmp_path / "root" / "set" / "1").unlink()
    (tmp_path / "root" / "set.tar.gz").write_bytes(b"?")
    get(tmp_path / "root", toy)
    assert site.log[2:] == [("set.tar.gz", None)]


def test_an_archive_placed_by_hand_is_unpacked_without_the_network(tmp_path, site, toy):
    root = tmp_path / "root"
    root.mkdir()
    (root / "set.tar.gz").write_bytes(site.files["set.tar.gz"])
    error = error_of(root, toy, download=False)
    assert isinstance(error, FileNotFoundError) and "no labels" in str(error)
    (root / "labels").write_bytes(b"0")
    assert len(get(root, toy, download=False).train) == 1 and not site.log


def test_a_set_whose_host_is_gone_is_placed_by_hand(tmp_path, site, toy):
    lost = [Remote("set.tar.gz", (), toy[0].checksum, "below", "set")]
    error = error_of(tmp_path / "root", lost)
    assert isinstance(error, FileNotFoundError) and not (tmp_path / "root").exists()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "set.tar.gz").write_bytes(b"another version")
    assert "set.tar.gz there is damaged, or another version: its md5" in str(error_of(tmp_path / "root", lost))
    assert files_below(tmp_path / "root") == ["set.tar.gz"]


@pytest.mark.parametrize("reason", ["HTTP 404", "not the published file", "refused"])
def test_a_failed_download_leaves_no_folder(tmp_path, site, toy, reason):
    if reason == "refused":
        toy[0] = Remote("set.tar.gz", (DEAD,), toy[0].checksum, "below", "set")
    elif reason == "HTTP 404":
        del site.files["set.tar.gz"]
    else:
        site.files["set.tar.gz"] += b"?"
    error = error_of(tmp_path / "new" / "root", toy)
    assert "the download to" in str(error) and reason in str(error)
    assert not (tmp_path / "new").exists()


def test_without_download_nothing_is_made(tmp_path, site, toy):
    assert isinstance(error_of(tmp_path / "new", toy, download=False), FileNotFoundError)
    assert not (tmp_path / "new").exists() and not site.log
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in str(error_of(tmp_path / "file", toy))


def test_an_evil_archive_of_the_right_checksum_is_refused(tmp_path, site, toy):
    evil = tar_of(tmp_path / "evil.tar.gz", {"../evil": b"evil"}).read_bytes()
    toy[0] = Remote("set.tar.gz", (site.add("set.tar.gz", evil),), hashlib.md5(evil).hexdigest(), makes="set")
    assert "cannot be unpacked" in str(error_of(tmp_path / "root", toy))
    assert not (tmp_path / "evil").exists() and sorted(os.listdir(tmp_path / "root")) == ["labels", "set.tar.gz"]


def test_a_set_that_stays_incomplete_says_so(tmp_path, site, toy):
    assert "is not complete in" in (message := str(error_of(tmp_path / "root", toy[:1]))) and "(no labels)" in message


@pytest.mark.parametrize("step", ["fetch", "unpack"])
def test_an_interrupt_leaves_no_partial_set(tmp_path, site, toy, monkeypatch, step):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"fetch": (transfer, "_blocks", interrupted), "unpack": (archive, "_move_into", interrupted)}[step])
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path / "new" / "root", toy)
    assert files_below(tmp_path) == ([] if step == "fetch" else ["new", "new/root", "new/root/labels", "new/root/set.tar.gz"])


def test_two_runs_fetch_once(tmp_path, site, toy, monkeypatch):
    slow, started = threading.Event(), threading.Event()
    complete = download_module._complete

    def waiting(*arguments):
        started.set()
        slow.wait(10)
        complete(*arguments)

    monkeypatch.setattr(download_module, "_complete", waiting)
    sizes = []
    threads = [threading.Thread(target=lambda: sizes.append(len(get(tmp_path / "root", toy).train))) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    slow.set()
    for thread in threads:
        thread.join(20)
    assert sizes == [1, 1, 1] and len(site.log) == 2
    assert files_below(tmp_path / "root") == ["labels", "set", "set.tar.gz", "set/1"]


@pytest.mark.parametrize("cause", ["404", "cut", "no network", "--no-download"])
def test_a_run_ends_with_one_line_and_exit_code_1(tmp_path, site, toy, monkeypatch, capfd, cause):
    files, flags = list(toy), []
    if cause == "404":
        del site.files["labels"]
    elif cause == "cut":
        site.add("labels", b"0" * 1000)
        site.cuts, site.then_dead = [9999, 500], True
    elif cause == "no network":
        files = [Remote("set.tar.gz", (DEAD, DEAD), MD5)]
    else:
        flags = ["--no-download"]

    def load(root, download):
        return read_or_fetch("CUB200", root, read, files, "put them there", download)

    monkeypatch.setitem(zoo.PUBLISHED, "CUB200", zoo.Published(load, 1, 1, 1))
    root, runs = tmp_path / "data" / "root", tmp_path / "runs"
    assert launch.run_command(catalog.load_method("erm"), [str(root), "-d", "CUB200", *TINY, "--recipe", "none", "--log", str(runs), *flags]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "CUB200" in line and str(root) in line and line.endswith("put them there")
    left = {"404": ["set.tar.gz"], "cut": [".labels.part", "set.tar.gz"]}.get(cause, [])
    assert files_below(tmp_path / "data") == (["root", *(f"root/{name}" for name in left)] if left else [])
    assert {Path(name).name for name in files_below(runs) if (runs / name).is_file()} <= {".lock", "failed.json"}, "no run of a table"
