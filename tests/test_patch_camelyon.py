"""PatchCamelyon: miniatures of its HDF5 files, contiguous and in pieces, packed, damaged; rows mapped into memory."""
from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import PCAM
from trees import error_of, mini, served, shrunk

from ssl_bench import zoo
from ssl_bench.datasets import patch_camelyon
from ssl_bench.datasets.cache import with_cache
from ssl_bench.datasets.mapped_rows import MappedRows

h5py = pytest.importorskip("h5py")
FILES = [file.makes for part in ("train", "test") for file in patch_camelyon._files(part)]


def write_pcam(folder: Path, *, count: int = 5, **layout) -> dict[str, np.ndarray]:
    """The four files, with `count` and 2 images; `layout` goes to h5py.  The arrays that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    random, arrays = np.random.RandomState(0), {}
    for part, n in (("train", count), ("test", 2)):
        images, labels = (file.makes for file in patch_camelyon._files(part))
        arrays[images] = random.randint(0, 256, (n, 96, 96, 3)).astype(np.uint8)
        arrays[labels] = (np.arange(n) % 2).astype(np.uint8).reshape(n, 1, 1, 1)
        for name, key in ((images, "x"), (labels, "y")):
            with h5py.File(folder / name, "w") as file:
                file.create_dataset(key, data=arrays[name], **(layout if key == "x" else {}))
    return arrays


def assert_equal(images, pixels, labels):
    assert images.targets.tolist() == labels.reshape(-1).tolist() and images.paths is None and images.pixels is None
    for i in range(len(images)):
        assert np.array_equal(images.load(i).permute(1, 2, 0).numpy(), pixels[i])
    assert images.load(0).dtype == torch.uint8 and images.load(0).shape == (3, 96, 96)


@pytest.mark.parametrize("place", ["pcam", ""])
@pytest.mark.parametrize("layout", [{}, {"chunks": (2, 24, 96, 1)}, {"chunks": True, "compression": "gzip"}], ids=str)
def test_rows_are_the_images(tmp_path, place, layout):
    arrays = write_pcam(tmp_path / place, **layout)
    data = mini("PatchCamelyon", tmp_path)
    assert data.classes == ("no tumour", "tumour")
    assert_equal(data.train, arrays[FILES[0]], arrays[FILES[1]])
    assert_equal(data.test, arrays[FILES[2]], arrays[FILES[3]])
    again = pickle.loads(pickle.dumps(data.train.cached))  # noqa: S301 - its own bytes, as a worker process gets them
    assert torch.equal(again.load(3), data.train.load(3)) and len(pickle.dumps(data.train.cached)) < 1500
    copies = list(tmp_path.rglob("*.raw"))
    assert len(copies) == (2 if layout else 0)
    assert_equal(data.train.take([4, 0]), arrays[FILES[0]][[4, 0]], arrays[FILES[1]][[4, 0]])


def test_a_copy_is_made_once_and_again_after_a_change(tmp_path, capsys):
    write_pcam(tmp_path, chunks=True)
    mini("PatchCamelyon", tmp_path)
    assert capsys.readouterr().out.count("are copied to") == 2
    mini("PatchCamelyon", tmp_path)
    assert capsys.readouterr().out == ""
    arrays = write_pcam(tmp_path, chunks=True, count=6)
    assert_equal(mini("PatchCamelyon", tmp_path).train, arrays[FILES[0]], arrays[FILES[1]])


def test_a_copy_goes_to_the_users_cache_where_the_data_cannot_be_written(tmp_path, monkeypatch):
    arrays = write_pcam(tmp_path / "data", chunks=True)
    (tmp_path / "data" / ".ssl-bench-cache").touch()  # as good as no permission, for root too
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert_equal(mini("PatchCamelyon", tmp_path / "data").train, arrays[FILES[0]], arrays[FILES[1]])
    assert len(list((tmp_path / "mine" / "ssl-bench").glob("*.raw"))) == 2
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").touch()
    with pytest.raises(OSError, match="must be copied once, which takes 138,240 bytes"):
        mini("PatchCamelyon", tmp_path / "data")


def packed(folder: Path, monkeypatch) -> None:
    """Pack the files as they are published, and take their checksums for the published ones."""
    names = {}
    for path in list(folder.glob("*.h5")):
        content = gzip.compress(path.read_bytes())
        names[path.name] = hashlib.md5(content).hexdigest()
        (folder / f"{path.name}.gz").write_bytes(content)
        path.unlink()
    files = {
        part: {kind: (entry[0], entry[1], names.get(entry[0], "")) for kind, entry in kinds.items()}
        for part, kinds in PCAM._FILES.items()
    }
    monkeypatch.setattr(PCAM, "_FILES", files)


@pytest.mark.parametrize("by_hand", [True, False])
def test_packed_files(tmp_path, monkeypatch, by_hand):
    folder = tmp_path / "root" / "pcam" if by_hand else tmp_path / "server"
    arrays = write_pcam(folder)
    packed(folder, monkeypatch)
    with served(folder) as url:
        monkeypatch.setattr(patch_camelyon, "URL", url)
        data = mini("PatchCamelyon", tmp_path / "root", download=not by_hand)
    assert_equal(data.train, arrays[FILES[0]], arrays[FILES[1]])
    assert {path.name for path in (tmp_path / "root" / "pcam").glob("*.h5")} == set(FILES)


def test_missing_and_damaged_files(tmp_path, monkeypatch):
    message = error_of("PatchCamelyon", tmp_path, download=False)
    assert all(name in message for name in FILES) and str(tmp_path / "pcam") in message and "zenodo.org" in message
    write_pcam(tmp_path)
    path = tmp_path / FILES[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert f"{path} is damaged" in error_of("PatchCamelyon", tmp_path, download=False)
    path.write_bytes(whole)
    with h5py.File(tmp_path / FILES[2], "w") as file:
        file["x"] = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"holds uint8 \(2, 32, 32, 3\) as 'x', expected uint8 \(N, 96, 96, 3\)"):
        mini("PatchCamelyon", tmp_path)
    with h5py.File(tmp_path / FILES[2], "w") as file:
        file["z"] = 1
    with pytest.raises(ValueError, match="holds nothing as 'x'"):
        mini("PatchCamelyon", tmp_path)


def test_without_h5py(tmp_path, monkeypatch):
    write_pcam(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match="which h5py reads: pip install h5py"):
        zoo.load("PatchCamelyon", str(tmp_path))


def test_counts(tmp_path, monkeypatch):
    write_pcam(tmp_path)
    assert "5 training images, 262144 were published (262139 are missing)" in error_of("PatchCamelyon", tmp_path, ValueError)
    shrunk(monkeypatch, "PatchCamelyon", train=5, test=2)
    assert len(zoo.load("PatchCamelyon", str(tmp_path)).test) == 2


def test_it_needs_no_cache(tmp_path, capsys):
    write_pcam(tmp_path)
    data = mini("PatchCamelyon", tmp_path)
    assert with_cache(data, "disk", 16, None, str(tmp_path)) is data and "decoded already" in capsys.readouterr().out


def test_mapped_rows_know_a_file_that_is_cut_short(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(bytes(7) + bytes(range(24)))
    rows = MappedRows(str(path), 7, (2, 2, 2, 3))
    assert len(rows) == 2 and rows.load(1)[:, 0, 0].tolist() == [12, 13, 14] and rows.load(1)[:, 1, 1].tolist() == [21, 22, 23]
    with pytest.raises(ValueError, match="is cut short"):
        MappedRows(str(path), 8, (2, 2, 2, 3))
