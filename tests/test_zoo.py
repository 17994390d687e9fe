"""The named data sets: every loader on a miniature in the official format, downloads that fail, counts, own sets."""
from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_bench import zoo
from ssl_bench.datasets import mnist, stl10
from ssl_bench.datasets.images import DataSet

FASHION = Path("/usr/share/datasets/fashion-mnist")
NOISE = np.random.RandomState(0)


def noise(*shape):
    return NOISE.randint(0, 256, shape).astype(np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def mini(name, root, download=False):
    return zoo.load(name, str(root), download=download, check_counts=False)


def same(images, pixels, targets):
    assert images.pixels.dtype == torch.uint8 and images.pixels.is_contiguous()
    assert np.array_equal(images.pixels.numpy(), pixels)
    assert images.targets.dtype == np.int64 and images.targets.tolist() == list(targets)


def error_of(name, root, **options) -> OSError:
    with pytest.raises(OSError) as caught:
        zoo.load(name, str(root), **options)
    message = str(caught.value)
    assert name in message and str(root) in message and "\n" not in message
    return caught.value


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_need_no_torch():
    program = (
        "import sys; from ssl_bench import zoo; zoo.names(); zoo.check_name('CIFAR10');"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'scipy', 'PIL') if m in sys.modules])"
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=paths)
    assert done.stdout.strip() == "[]"


def test_known_names():
    expected = {"Digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10", "ImageFolder"}
    expected |= {"StanfordDogs", "EuroSAT", "Resisc45", "PatchCamelyon", "ImageNet", "ImageNet100", "MiniImageNet"}
    assert expected <= set(zoo.names()) and len(zoo.names()) == len(set(zoo.names()))
    for name in [*expected, "pkg.sub:Name", "mod:make"]:
        zoo.check_name(name)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("CIFR10", "CIFAR10"), ("cifar100", "CIFAR100"), ("Imagefolder", "ImageFolder"), ("fashion-mnist", "FashionMNIST"),
     ("stl", "STL10"), ("ImageNet-100", "ImageNet100"), ("Mini-ImageNet", "MiniImageNet"), ("imagenet", "ImageNet")],
)  # fmt: skip
def test_unknown_name_has_the_nearest(wrong, right):
    with pytest.raises(ValueError, match=f"unknown data set '{wrong}'; did you mean {right}\\?"):
        zoo.check_name(wrong)
    with pytest.raises(ValueError, match="did you mean"):
        zoo.load(wrong, None)


@pytest.mark.parametrize("name", ["zzz", "", "a:b:c", "a.:B", ":B", "a:", "a b:C"])
def test_hopeless_names(name):
    with pytest.raises(ValueError, match="data set '"):
        zoo.check_name(name)


@pytest.mark.parametrize("name", ["CIFAR10", "ImageFolder"])
def test_root_is_needed(name):
    with pytest.raises(ValueError, match=f"{name} needs a root folder"):
        zoo.load(name, None)


# --- Digits ---------------------------------------------------------------------------------------------------------


def test_digits_is_pinned():
    data = zoo.load("Digits", None)
    assert data.classes == tuple("0123456789") and (len(data.train), len(data.test)) == (1297, 500)
    assert data.train.pixels.shape == (1297, 1, 8, 8) and np.bincount(data.test.targets).tolist() == [50] * 10
    hashes = [
        hashlib.sha256(part.pixels.numpy().tobytes() + part.targets.astype("<i8").tobytes()).hexdigest()[:16]
        for part in (data.train, data.test)
    ]
    assert hashes == ["83a66b6d893130cd", "e910468d7572b664"]


def test_digits_is_scikit_learns_split_in_two():
    from sklearn.datasets import load_digits

    raw, data = load_digits(), zoo.load("Digits", None)
    scaled = ((raw.data.astype(int) * 510 + 16) // 32).astype(np.uint8)  # round half up, in integers
    expected = Counter(zip(map(bytes, scaled), raw.target.tolist(), strict=True))
    found = Counter()
    for part in (data.train, data.test):
        found += Counter(zip(map(bytes, part.pixels.numpy().reshape(-1, 64)), part.targets.tolist(), strict=True))
    assert found == expected and data.train.pixels.max() == 255


# --- idx ------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, packed: bool = False, dotted: bool = False) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3": noise(12, 28, 28), "train-labels-idx1": (np.arange(12) % 10).astype(np.uint8),
        "t10k-images-idx3": noise(10, 28, 28), "t10k-labels-idx1": np.arange(10)[::-1].astype(np.uint8),
    }  # fmt: skip
    for name, array in arrays.items():
        content = gzip.compress(idx(array), mtime=0) if packed else idx(array)
        name = name.replace("-idx", ".idx") if dotted else name
        (folder / f"{name}-ubyte{'.gz' if packed else ''}").write_bytes(content)
    return arrays


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize(
    ("where", "packed"), [("", True), ("", False), ("raw", False), ("{}", True), ("{}/raw", False)]
)
def test_idx_files_in_every_place(tmp_path, name, where, packed):
    arrays = write_idx(tmp_path / where.format(name), packed)
    data = mini(name, tmp_path)
    same(data.train, arrays["train-images-idx3"][:, None], arrays["train-labels-idx1"])
    same(data.test, arrays["t10k-images-idx3"][:, None], arrays["t10k-labels-idx1"])
    assert data.name == name and len(data.classes) == 10


def test_idx_files_with_a_dot_and_of_the_other_set(tmp_path):
    write_idx(tmp_path / "a", dotted=True)
    assert len(mini("MNIST", tmp_path / "a").train) == 12
    write_idx(tmp_path / "b" / "FashionMNIST" / "raw")
    assert "put train-images-idx3-ubyte" in str(error_of("MNIST", tmp_path / "b", download=False))


def test_class_names_equal_torchvision():
    import torchvision

    assert list(mnist._CLOTHES) == torchvision.datasets.FashionMNIST.classes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x", b"", "no idx file"),
        ("x", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "no idx file"),  # float
        ("x", b"\0\0\x08\x03\0\0", "no idx file"),
        ("x", idx(np.zeros((2, 3), np.uint8))[:-1], "5 bytes of data, 6 by its header"),
        ("x", idx(np.zeros((2, 3), np.uint8)) + b"\0", "7 bytes of data, 6 by its header"),
        ("x.gz", gzip.compress(b"\0" * 99, mtime=0)[:-12], "damaged"),
        ("x.gz", b"<html>", "damaged"),
    ],
)
def test_damaged_idx_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message.replace("no idx", "(no|not an) idx")) as caught:
        mnist.read_idx(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_images_and_labels_must_belong_together(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(11, np.uint8)))
    with pytest.raises(ValueError, match="do not belong together"):
        mini("MNIST", tmp_path)


def test_real_fashion_mnist():
    if not FASHION.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    data = zoo.load("FashionMNIST", str(FASHION), download=False)
    assert np.bincount(data.train.targets).tolist() == [6000] * 10
    assert abs(float(data.train.pixels.float().mean()) / 255 - 0.2860) < 1e-4  # the mean everybody normalises with


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def make_cifar(folder: Path, name: str, monkeypatch) -> dict[str, np.ndarray]:
    """A miniature in the official format; torchvision's checksums are replaced by those of the miniature."""
    import torchvision

    kind = getattr(torchvision.datasets, name)
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    classes = 10 if name == "CIFAR10" else 100
    key, parts = ("labels", kind.train_list) if name == "CIFAR10" else ("fine_labels", kind.train_list)
    arrays = {"train": [], "train_y": [], "test": [], "test_y": []}
    lists = {"train": [], "test": []}
    for split, files in (("train", parts), ("test", kind.test_list)):
        for filename, _ in files:
            rows, labels = noise(classes, 3072), NOISE.permutation(classes).tolist()
            content = {"data": rows, key: labels, "coarse_labels": [0] * classes}
            (base / filename).write_bytes(pickle.dumps(content, protocol=2))
            lists[split].append([filename, md5(base / filename)])
            arrays[split].append(rows.reshape(-1, 3, 32, 32))
            arrays[split + "_y"] += labels
    names = [f"class {c}" for c in range(classes)]
    meta = dict(kind.meta)
    (base / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}, protocol=2))
    meta["md5"] = md5(base / meta["filename"])
    for attribute, value in (("train_list", lists["train"]), ("test_list", lists["test"]), ("meta", meta)):
        monkeypatch.setattr(kind, attribute, value)
    return {k: np.concatenate(v) if k in lists else v for k, v in arrays.items()}


def pack_cifar(folder: Path, archive: Path, monkeypatch):
    import torchvision

    kind = torchvision.datasets.CIFAR10
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / kind.base_folder, kind.base_folder)
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar(tmp_path, monkeypatch, name):
    arrays = make_cifar(tmp_path, name, monkeypatch)
    data = mini(name, tmp_path)
    same(data.train, arrays["train"], arrays["train_y"])
    same(data.test, arrays["test"], arrays["test_y"])
    assert data.classes[:2] == ("class 0", "class 1") and len(data.classes) == (10 if name == "CIFAR10" else 100)


def test_cifar_archive_placed_by_hand_is_unpacked(tmp_path, monkeypatch):
    arrays = make_cifar(tmp_path / "made", "CIFAR10", monkeypatch)
    (tmp_path / "root").mkdir()
    pack_cifar(tmp_path / "made", tmp_path / "root" / "cifar-10-python.tar.gz", monkeypatch)
    same(mini("CIFAR10", tmp_path / "root").test, arrays["test"], arrays["test_y"])


def test_damaged_archive_placed_by_hand_is_not_unpacked(tmp_path, monkeypatch):
    make_cifar(tmp_path / "made", "CIFAR10", monkeypatch)
    (tmp_path / "root").mkdir()
    archive = tmp_path / "root" / "cifar-10-python.tar.gz"
    pack_cifar(tmp_path / "made", archive, monkeypatch)
    with tarfile.open(archive, "w:gz") as tar:  # another archive of that name
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
        tar.add(__file__, "stranger.py")
    message = str(error_of("CIFAR10", tmp_path / "root", download=False))
    assert "cifar-10-python.tar.gz there is damaged, or another version: its md5" in message
    assert os.listdir(tmp_path / "root") == ["cifar-10-python.tar.gz"]


def test_damaged_cifar_is_not_unpickled(tmp_path, monkeypatch):
    make_cifar(tmp_path, "CIFAR10", monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Bomb()))
    message = str(error_of("CIFAR10", tmp_path, download=False))
    assert "missing or damaged" in message and "put cifar-10-python.tar.gz" in message
    assert not (tmp_path / "exploded").exists()


# --- SVHN, STL10 ----------------------------------------------------------------------------------------------------


def test_svhn(tmp_path, monkeypatch):
    import torchvision

    io = pytest.importorskip("scipy.io")
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    pixels = {}
    for split in ("train", "test"):
        pixels[split] = noise(11, 3, 32, 32)
        labels = np.array([10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], np.uint8)[:, None]
        io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels[split].transpose(2, 3, 1, 0), "y": labels})
    data = mini("SVHN", tmp_path)
    for split in ("train", "test"):
        same(getattr(data, split), pixels[split], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    assert data.classes == tuple("0123456789")


def test_svhn_names_the_missing_file(tmp_path):
    assert "test_32x32.mat" in str(error_of("SVHN", tmp_path, download=False))


def make_stl10(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    arrays = {}
    for part, count in (("train", 10), ("test", 11), ("unlabeled", 1001)):  # more than one block
        arrays[part] = noise(count, 3, 96, 96)
        (folder / f"{part}_X.bin").write_bytes(arrays[part].transpose(0, 1, 3, 2).tobytes())
        arrays[part + "_y"] = np.arange(count) % 10
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((arrays[part + "_y"] + 1).astype(np.uint8).tobytes())
    return arrays


def test_stl10(tmp_path):
    arrays = make_stl10(tmp_path / "stl10_binary")
    data = mini("STL10", tmp_path)
    same(data.train, arrays["train"], arrays["train_y"])
    same(data.test, arrays["test"], arrays["test_y"])
    same(data.unlabeled, arrays["unlabeled"], [-1] * 1001)
    assert data.classes[0] == "airplane" and not data.labeled_given


def test_stl10_equals_torchvision(tmp_path, monkeypatch):
    import torchvision

    make_stl10(tmp_path / "stl10_binary")
    (tmp_path / "stl10_binary" / "class_names.txt").write_text("\n".join(stl10.CLASSES) + "\n")
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    reference = torchvision.datasets.STL10(str(tmp_path), split="test")
    data = mini("STL10", tmp_path)
    same(data.test, reference.data, reference.labels)
    picture = np.asarray(reference[3][0]).transpose(2, 0, 1)
    assert np.array_equal(data.test.load(3).numpy(), picture)


def test_stl10_cut_short_or_incomplete(tmp_path):
    make_stl10(tmp_path / "stl10_binary")
    path = tmp_path / "stl10_binary" / "unlabeled_X.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="unlabeled_X.bin is cut short"):
        mini("STL10", tmp_path)
    path.unlink()
    assert "no unlabeled_X.bin in stl10_binary" in str(error_of("STL10", tmp_path, download=False))


# --- counts ---------------------------------------------------------------------------------------------------------


def test_published_counts_are_checked(tmp_path, monkeypatch):
    write_idx(tmp_path)
    with pytest.raises(ValueError, match=r"12 training images, 60000 were published \(59988 are missing\)"):
        zoo.load("MNIST", str(tmp_path))
    read = zoo.PUBLISHED["MNIST"].read
    for counts, message in (
        ({"classes": 10, "train": 12, "test": 9}, r"10 test images, 9 were published \(1 too many\)"),
        ({"classes": 11, "train": 12, "test": 10}, "10 classes, 11 were published"),
        ({"classes": 10, "train": 12, "test": 10, "unlabeled": 5}, r"0 unlabelled images, 5 .*\(5 are missing\)"),
    ):
        monkeypatch.setitem(zoo.PUBLISHED, "MNIST", zoo.Published(read, **counts))
        with pytest.raises(ValueError, match=message):
            zoo.load("MNIST", str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8], np.uint8)))
    monkeypatch.setitem(zoo.PUBLISHED, "MNIST", zoo.Published(read, classes=10, train=12, test=10))
    with pytest.raises(ValueError, match="no test image of class 9"):
        zoo.load("MNIST", str(tmp_path))


def test_published_counts():
    """From the papers and pages of the sets."""
    found = {name: (p.classes, p.train, p.test, p.unlabeled) for name, p in zoo.PUBLISHED.items()}
    assert found.items() >= {
        "Digits": (10, 1297, 500, 0), "MNIST": (10, 60000, 10000, 0), "FashionMNIST": (10, 60000, 10000, 0),
        "CIFAR10": (10, 50000, 10000, 0), "CIFAR100": (100, 50000, 10000, 0), "SVHN": (10, 73257, 26032, 0),
        "STL10": (10, 5000, 8000, 100000), "StanfordDogs": (120, 12000, 8580, 0), "EuroSAT": (10, 21600, 5400, 0),
        "Resisc45": (45, 25200, 6300, 0), "PatchCamelyon": (2, 262144, 32768, 0), "ImageNet": (1000, 1281167, 50000, 0),
        "ImageNet100": (100, None, 5000, 0), "MiniImageNet": (100, 50000, 10000, 0),
    }.items()  # fmt: skip


def test_every_published_set_is_described_in_one_line():
    for name, published in zoo.PUBLISHED.items():
        assert published.about and "\n" not in published.about and len(published.summary) < 100, name
    assert zoo.PUBLISHED["SVHN"].summary == "10 classes, 73,257/26,032 images: digits of house numbers, 32x32"


# --- downloads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server on this machine; yields (its folder, its address)."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def cifar_site(tmp_path, monkeypatch, site):
    import torchvision

    arrays = make_cifar(tmp_path / "made", "CIFAR10", monkeypatch)
    pack_cifar(tmp_path / "made", site[0] / "cifar-10-python.tar.gz", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{site[1]}/cifar-10-python.tar.gz")
    return site[0] / "cifar-10-python.tar.gz", arrays


def test_download_of_an_archive(tmp_path, cifar_site):
    root = tmp_path / "new" / "root"
    same(mini("CIFAR10", root, download=True).train, cifar_site[1]["train"], cifar_site[1]["train_y"])
    assert sorted(os.listdir(root)) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_download_repairs_a_damaged_file_and_keeps_strangers(tmp_path, cifar_site):
    root = tmp_path / "root"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cut")
    (root / "mine.txt").write_text("keep")
    same(mini("CIFAR10", root, download=True).test, cifar_site[1]["test"], cifar_site[1]["test_y"])
    assert (root / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("failure", ["404", "checksum", "no network"])
def test_failed_download_leaves_nothing(tmp_path, monkeypatch, cifar_site, failure):
    import torchvision

    archive, _ = cifar_site
    if failure == "404":
        archive.unlink()
    elif failure == "checksum":
        archive.write_bytes(archive.read_bytes()[:-9])
    else:
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    old = tmp_path / "old"
    (old / "cifar-10-batches-py").mkdir(parents=True)
    (old / "cifar-10-batches-py" / "data_batch_1").write_text("what was there")
    before = files_below(old)
    for root in (tmp_path / "new" / "root", old):
        message = str(error_of("CIFAR10", root, download=True))
        assert "the download to" in message and "put cifar-10-python.tar.gz (from http" in message
    assert not (tmp_path / "new").exists() and files_below(old) == before
    assert (old / "cifar-10-batches-py" / "data_batch_1").read_text() == "what was there"


def test_download_of_idx_files_with_mirrors(tmp_path, monkeypatch, site):
    import torchvision

    kind = torchvision.datasets.MNIST
    arrays = write_idx(site[0] / "good", packed=True)
    resources = [(path.name, md5(path)) for path in sorted((site[0] / "good").iterdir())]
    monkeypatch.setattr(kind, "resources", resources)
    monkeypatch.setattr(kind, "mirrors", [f"{site[1]}/dead/", f"{site[1]}/good/"])
    same(mini("MNIST", tmp_path / "root", download=True).train, arrays["train-images-idx3"][:, None],
         arrays["train-labels-idx1"])  # fmt: skip
    monkeypatch.setattr(kind, "mirrors", [f"{site[1]}/dead/"])
    message = str(error_of("MNIST", tmp_path / "other", download=True))
    assert "404" in message and os.path.join("MNIST", "raw") in message
    assert not (tmp_path / "other").exists()


def test_download_of_svhn(tmp_path, monkeypatch, site):
    import torchvision

    io = pytest.importorskip("scipy.io")
    lists = {}
    for split in ("train", "test"):
        path = site[0] / f"{split}_32x32.mat"
        io.savemat(path, {"X": noise(32, 32, 3, 10), "y": np.arange(1, 11, dtype=np.uint8)[:, None]})
        lists[split] = [f"{site[1]}/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    assert len(mini("SVHN", tmp_path / "root", download=True).train) == 10
    (site[0] / "test_32x32.mat").unlink()
    error_of("SVHN", tmp_path / "other", download=True)
    assert files_below(tmp_path / "other") == ["train_32x32.mat"]  # whole and checked: it need not come again


def test_download_of_stl10(tmp_path, monkeypatch, site):
    import torchvision

    arrays = make_stl10(tmp_path / "made" / "stl10_binary")
    with tarfile.open(site[0] / "stl10_binary.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "made" / "stl10_binary", "stl10_binary")
    monkeypatch.setattr(torchvision.datasets.STL10, "url", f"{site[1]}/stl10_binary.tar.gz")
    monkeypatch.setattr(torchvision.datasets.STL10, "tgz_md5", md5(site[0] / "stl10_binary.tar.gz"))
    same(mini("STL10", tmp_path / "root", download=True).test, arrays["test"], arrays["test_y"])


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"])
def test_absent_without_download(tmp_path, name):
    assert isinstance(error_of(name, tmp_path / "none", download=False), FileNotFoundError)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in str(error_of(name, tmp_path / "file"))


# --- own sets -------------------------------------------------------------------------------------------------------

OWN = '''
import numpy as np, torch
from ssl_bench.datasets.images import DataSet, Images

def Tiny(root):
    part = Images(np.array([0, 1]), torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    return DataSet(f"Tiny in {root}", ("a", "b"), part, part)

def Wrong(root):
    return [root]

number = 3
'''


def test_package_module_name(tmp_path, monkeypatch):
    (tmp_path / "own_sets").mkdir()
    (tmp_path / "own_sets" / "tiny_for_test.py").write_text(OWN)
    (tmp_path / "own_sets" / "bug_for_test.py").write_text("import no_such_module_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = zoo.load("own_sets.tiny_for_test:Tiny", "~/x")
    assert isinstance(data, DataSet) and data.name == f"Tiny in {os.path.expanduser('~/x')}"
    assert zoo.load("own_sets.tiny_for_test:Tiny", None).name == "Tiny in None"
    for name, message in (
        ("own_sets.tiny_for_test:Tinny", "no callable 'Tinny'"),
        ("own_sets.tiny_for_test:number", "no callable 'number'"),
        ("own_sets.tiny_for_test:Wrong", "returned list, expected a DataSet"),
        ("own_sets.absent:Tiny", "no module 'own_sets.absent'"),
        ("absent_for_test.tiny:Tiny", "no module 'absent_for_test'.*PYTHONPATH"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.load(name, None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        zoo.load("own_sets.bug_for_test:Tiny", None)


class MapStyle:
    def __init__(self, pictures, answers, **attributes):
        self.pictures = pictures
        self.answers = answers
        for key, value in attributes.items():
            setattr(self, key, value)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return self.pictures[i], self.answers[i]


def pictures(array):
    return [Image.fromarray(row) for row in array]


def test_from_torchvision_in_memory():
    colour, targets = noise(3, 5, 6, 3), [1, 0, 2]
    data = zoo.from_torchvision(
        "Own",
        MapStyle(pictures(colour), targets, targets=torch.tensor(targets), classes=["x", "y", "z"]),
        MapStyle(pictures(colour[::-1]), targets),
    )
    assert data.classes == ("x", "y", "z") and data.name == "Own"
    same(data.train, colour.transpose(0, 3, 1, 2), targets)
    same(data.test, colour[::-1].transpose(0, 3, 1, 2), targets)
    grey = noise(2, 5, 6)
    data = zoo.from_torchvision("Own", *[MapStyle(pictures(grey), [0, 1])] * 2)
    same(data.train, grey[:, None], [0, 1])
    assert data.classes == ("0", "1")


def test_from_torchvision_with_files(tmp_path):
    import torchvision

    arrays = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        arrays[name] = noise(4, 4 + len(arrays), 3)
        Image.fromarray(arrays[name]).save(tmp_path / name / "0.png")
    folder = torchvision.datasets.ImageFolder(str(tmp_path))
    listed = MapStyle([None] * 2, [0, 1], _image_files=[tmp_path / "b/0.png", tmp_path / "a/0.png"], _labels=[1, 0])
    data = zoo.from_torchvision("Own", folder, listed)
    assert data.classes == ("a", "b") and data.test.targets.tolist() == [1, 0]
    assert np.array_equal(data.train.load(1).numpy(), arrays["b"].transpose(2, 0, 1))
    assert np.array_equal(data.test.load(0).numpy(), arrays["b"].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (MapStyle(pictures(noise(2, 4, 4, 3)), [0, 1], transform=abs), "without transform"),
        (MapStyle(pictures(noise(1, 4, 4, 3)) + pictures(noise(1, 4, 5, 3)), [0, 1]), r"1 has shape \(3, 4, 5\)"),
        (MapStyle([torch.zeros(3, 4, 4)], [0]), "item 0 is Tensor"),
        (MapStyle([], []), "empty"),
        (MapStyle(pictures(noise(200, 40, 40, 3)), [0] * 200), "do not fit"),
    ],
)
def test_from_torchvision_refuses(part, message):
    with pytest.raises(ValueError, match=message):
        zoo.from_torchvision("Own", part, part, limit_bytes=100_000)
