"""TLlib's nine sets of photographs: each read from a miniature of its official archive, fetched, and in TLlib's layout."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from loopback import serve
from PIL import Image

from ssl_bench import zoo
from ssl_bench.datasets import caltech101, cub200, photographs, sun397
from ssl_bench.pools import make_pools, with_true_labels

Listed = list[tuple[str, int]]  # (path below the root, label), in the order the loader is to give
VARIANTS = ["A-1", "A 2/B", "C"]


def jpeg(level: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 6), (level, level, level)).save(held, "JPEG")
    return held.getvalue()


def put(root: Path, name: str, content: bytes | str | None = None) -> str:
    """A file below root; by default a tiny JPEG whose grey level is made of its name."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = jpeg(sum(name.encode()) % 256) if content is None else content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def savemat(root: Path, name: str, **arrays) -> None:
    held = io.BytesIO()
    pytest.importorskip("scipy.io").savemat(held, arrays)
    put(root, name, held.getvalue())


def make_food101(root: Path) -> dict[str, Listed]:
    names = {"train": {"waffles": ["20", "3"], "apple_pie": ["1", "2"]}, "test": {"waffles": ["9"], "apple_pie": ["8"]}}
    found = {}
    for part, classes in names.items():
        stems = {label: [f"{label}/{i}" for i in ids] for label, ids in classes.items()}
        put(root, f"food-101/meta/{part}.json", json.dumps(stems))
        files = [put(root, f"food-101/images/{stem}.jpg") for ids in stems.values() for stem in ids]
        found[part] = sorted((name, int("waffles" in name)) for name in files)
    return found


def make_aircraft(root: Path) -> dict[str, Listed]:
    data = "fgvc-aircraft-2013b/data"
    put(root, f"{data}/variants.txt", "\n".join(VARIANTS) + "\n")
    found = {}
    for part, rows in {"trainval": [(2, "007"), (0, "003"), (1, "001")], "test": [(1, "004"), (0, "002"), (2, "005")]}.items():
        put(root, f"{data}/images_variant_{part}.txt", "".join(f"{i} {VARIANTS[label]}\n" for label, i in rows))
        found["test" if part == "test" else "train"] = [(put(root, f"{data}/images/{i}.jpg"), label) for label, i in rows]
    return found


def make_cars(root: Path) -> dict[str, Listed]:
    found = {}
    for part, labels in {"train": [2, 1, 3], "test": [3, 1, 2, 2]}.items():
        files = [put(root, f"stanford_cars/cars_{part}/{i:05d}.jpg") for i in range(1, len(labels) + 1)]
        rows = np.array([(1, label, Path(name).name) for label, name in zip(labels, files, strict=True)],
                        dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")])  # fmt: skip
        lists = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
        savemat(root, f"stanford_cars/{lists[part]}", annotations=rows)
        found[part] = [(name, label - 1) for name, label in zip(files, labels, strict=True)]
    savemat(root, "stanford_cars/devkit/cars_meta.mat", class_names=np.array(["AM Hummer", "Audi A5", "BMW M3"], dtype=object))
    return found


def make_dtd(root: Path) -> dict[str, Listed]:
    found = {}
    parts = {"train": ["dotted/d_2", "banded/b_1"], "val": ["banded/b_9", "dotted/d_9"], "test": ["banded/b_3", "dotted/d_1"]}
    for part, names in parts.items():
        put(root, f"dtd/dtd/labels/{part}1.txt", "".join(f"{name}.jpg\n" for name in names))
        found[part] = [(put(root, f"dtd/dtd/images/{name}.jpg"), int(name.startswith("dotted"))) for name in names]
    return found


def make_pets(root: Path) -> dict[str, Listed]:
    found = {}
    breeds = {"Abyssinian": 1, "beagle": 2, "great_dane": 3}
    parts = {"trainval": ["beagle_2", "Abyssinian_1", "great_dane_1"], "test": ["great_dane_3", "beagle_1", "Abyssinian_7"]}
    for part, names in parts.items():
        labels = [breeds[name.rpartition("_")[0]] for name in names]
        rows = "".join(f"{name} {label} {1 + (label > 1)} 1\n" for name, label in zip(names, labels, strict=True))
        put(root, f"oxford-iiit-pet/annotations/{part}.txt", rows)
        files = [put(root, f"oxford-iiit-pet/images/{name}.jpg") for name in names]
        found["test" if part == "test" else "train"] = [(name, i - 1) for name, i in zip(files, labels, strict=True)]
    return found


def make_flowers(root: Path) -> dict[str, Listed]:
    labels = [1, 2, 2, 1, 2, 1, 1]
    ids = {"train": [3, 1], "val": [2, 7], "test": [6, 5, 4]}
    files = [put(root, f"flowers-102/jpg/image_{i:05d}.jpg") for i in range(1, 8)]
    savemat(root, "flowers-102/imagelabels.mat", labels=np.array([labels]))
    train, val, test = (np.array([chosen]) for chosen in ids.values())
    savemat(root, "flowers-102/setid.mat", trnid=train, valid=val, tstid=test)
    return {part: [(files[i - 1], labels[i - 1] - 1) for i in chosen] for part, chosen in ids.items()}


def make_cub200(root: Path) -> dict[str, Listed]:
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    rows = [(0, "b", 1), (0, "a", 0), (1, "c", 0), (1, "a", 1), (1, "d", 1)]
    columns = {
        "images.txt": [f"{classes[c]}/{stem}.jpg" for c, stem, _ in rows], "classes.txt": classes,
        "image_class_labels.txt": [c + 1 for c, _, _ in rows], "train_test_split.txt": [is_train for *_, is_train in rows],
    }  # fmt: skip
    for name, column in columns.items():
        put(root, f"CUB_200_2011/{name}", "".join(f"{i} {value}\n" for i, value in enumerate(column, 1)))
    found = {"train": [], "test": []}
    for c, stem, is_train in rows:
        found["train" if is_train else "test"].append((put(root, f"CUB_200_2011/images/{classes[c]}/{stem}.jpg"), c))
    return found


def make_sun397(root: Path) -> dict[str, Listed]:
    classes = ["/a/abbey", "/b/bakery/shop"]
    found = {}
    for part, rows in {"Training": [(1, "x"), (0, "y"), (1, "a")], "Testing": [(0, "z"), (1, "b")]}.items():
        names = [f"{classes[c]}/sun_{stem}.jpg" for c, stem in rows]
        put(root, f"Partitions/{part}_01.txt", "".join(f"{name}\r\n" for name in names))
        found[part[:5].lower().rstrip("in")] = [(put(root, f"SUN397{name}"), c) for name, (c, _) in zip(names, rows, strict=True)]
    put(root, "SUN397/a/abbey/sun_unused.jpg")
    return {"train": found["tra"], "test": found["test"]}


def make_caltech101(root: Path) -> dict[str, Listed]:
    sizes = {"accordion": 32, "BACKGROUND_Google": 33, "Faces": 31}
    image = jpeg(7)
    for name, size in sizes.items():
        for i in range(1, size + 1):
            put(root, f"caltech-101/101_ObjectCategories/{name}/image_{i:04d}.jpg", image)
    put(root, "caltech-101/101_ObjectCategories/BACKGROUND_Google/tmp", "no image")
    # What RandomState(0).permutation leaves after 30, of 32, 33 and 31 in turn.
    held_out = [("accordion", [13, 16]), ("BACKGROUND_Google", [20, 30, 32]), ("Faces", [10])]
    return {"test": [(f"caltech-101/101_ObjectCategories/{name}/image_{i:04d}.jpg", target)
                     for target, (name, ids) in enumerate(held_out) for i in ids]}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Set:
    """How a set is made in miniature; module and variable that hold its files; classes; what each archive is made of."""

    make: Callable[[Path], dict[str, Listed]]
    module: object
    files: str
    classes: tuple[str, ...]
    packed: dict[str, tuple[str, ...]]  # archive -> folders below the place it is unpacked in


SETS = {
    "Food101": Set(make_food101, photographs, "FOOD101", ("apple_pie", "waffles"), {"food-101.tar.gz": ("food-101",)}),
    "CUB200": Set(
        make_cub200, cub200, "FILES", ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
        {"CUB_200_2011.tgz": ("CUB_200_2011",)},
    ),
    "Aircraft": Set(
        make_aircraft, photographs, "AIRCRAFT", tuple(VARIANTS), {"fgvc-aircraft-2013b.tar.gz": ("fgvc-aircraft-2013b",)}
    ),
    "StanfordCars": Set(
        make_cars, photographs, "CARS", ("AM Hummer", "Audi A5", "BMW M3"),
        {"car_devkit.tgz": ("devkit",), "cars_train.tgz": ("cars_train",), "cars_test.tgz": ("cars_test",)},
    ),
    "SUN397": Set(
        make_sun397, sun397, "FILES", ("abbey", "bakery/shop"),
        {"SUN397.tar.gz": ("SUN397",), "Partitions.zip": ("Training_01.txt", "Testing_01.txt")},
    ),
    "DTD": Set(make_dtd, photographs, "DTD", ("banded", "dotted"), {"dtd-r1.0.1.tar.gz": ("dtd",)}),
    "OxfordIIITPets": Set(
        make_pets, photographs, "PETS", ("Abyssinian", "Beagle", "Great Dane"),
        {"images.tar.gz": ("images",), "annotations.tar.gz": ("annotations",)},
    ),
    "OxfordFlowers102": Set(make_flowers, photographs, "FLOWERS", (), {"102flowers.tgz": ("jpg",)}),
    "Caltech101": Set(
        make_caltech101, caltech101, "FILES", ("accordion", "BACKGROUND_Google", "Faces"), {"caltech-101.zip": ("caltech-101",)}
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def the_miniatures_checksums(monkeypatch):
    """torchvision compares Flowers' two small lists at each start; those of a miniature are others."""
    from torchvision.datasets import flowers102

    monkeypatch.setattr(flowers102, "check_integrity", lambda path, md5=None: os.path.isfile(path))


def mini(name: str, root: Path, download: bool = False):
    return zoo.load(name, str(root), download=download, check_counts=False)


def listed(images) -> Listed:
    return list(zip(images.paths, images.targets.tolist(), strict=True))


def check(name: str, data, root: Path, found: dict[str, Listed]) -> None:
    for part, images in {"train": data.train, "test": data.test, "val": data.unlabeled}.items():
        if part == "val" and name != "OxfordFlowers102":
            assert images is None
        elif part in found:
            assert listed(images) == [(str(root / path), label) for path, label in found[part]], part
            for i in range(len(images)):
                assert images.load(i).shape == (3, 6, 8)
    assert data.name == name and data.classes[: len(SETS[name].classes)] == SETS[name].classes


@pytest.mark.parametrize("name", SETS)
def test_the_official_folders(tmp_path, name):
    found = SETS[name].make(tmp_path)
    check(name, mini(name, tmp_path), tmp_path, found)


@pytest.mark.parametrize("name", ["Food101", "CUB200", "Aircraft", "DTD", "OxfordIIITPets", "OxfordFlowers102", "StanfordCars"])
def test_the_root_may_be_the_official_folder_itself(tmp_path, name):
    found = SETS[name].make(tmp_path)
    base = Path(found["train"][0][0]).parts[0]
    check(name, mini(name, tmp_path / base), tmp_path, found)


def test_caltech_and_sun_in_the_other_places(tmp_path):
    make_caltech101(tmp_path)
    for place in ("caltech101", "."):
        (tmp_path / place).mkdir(exist_ok=True)
        old = next(tmp_path.rglob("101_ObjectCategories"))
        old.rename(tmp_path / place / "101_ObjectCategories")
        assert len(mini("Caltech101", tmp_path).train) == 90
    found = make_sun397(tmp_path)
    for place in ("SUN397", "."):
        for path in list(tmp_path.rglob("*ing_01.txt")):
            path.rename(tmp_path / place / path.name)
        check("SUN397", mini("SUN397", tmp_path), tmp_path, found)


def test_caltechs_draw_is_pinned():
    """Of sizes as of the real set: the same on every machine, and TLlib's order of classes."""
    sizes = [55, 800, 42, 42, 467, 47, 31]
    random = np.random.RandomState(caltech101.SPLIT_SEED)
    drawn = np.concatenate([np.sort(random.choice(size, caltech101.TRAIN_PER_CLASS, replace=False)) for size in sizes])
    assert hashlib.sha256(",".join(map(str, drawn.tolist())).encode()).hexdigest()[:16] == "c9ddd940cd6f6d28"


# Fetched


def pack(name: str, made: Path, site) -> list:
    """The set's files as its site has them: archives of what was made, with the checksums of these."""
    files = []
    for file in getattr(SETS[name].module, SETS[name].files):
        folder = made / file.folder
        held = io.BytesIO()
        if file.name.endswith(".mat"):
            held.write((folder / file.name).read_bytes())
        elif name == "Caltech101":
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w:gz") as packed:
                packed.add(made / "caltech-101" / "101_ObjectCategories", "101_ObjectCategories")
            with zipfile.ZipFile(held, "w") as packed:
                packed.writestr("caltech-101/101_ObjectCategories.tar.gz", inner.getvalue())
        elif file.name.endswith(".zip"):
            with zipfile.ZipFile(held, "w") as packed:
                for member in SETS[name].packed[file.name]:
                    packed.write(folder / member, member)
        else:
            with tarfile.open(fileobj=held, mode="w:gz") as packed:
                for member in SETS[name].packed[file.name]:
                    packed.add(folder / member, member)
        checksum = hashlib.md5(held.getvalue()).hexdigest() if file.checksum else ""
        files.append(dataclasses.replace(file, urls=(site.add(file.name, held.getvalue()),), checksum=checksum))
    return files


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as site:
        yield site


@pytest.mark.parametrize("name", SETS)
def test_fetched_or_placed_as_archives(tmp_path, monkeypatch, site, name):
    found = SETS[name].make(tmp_path / "made")
    files = pack(name, tmp_path / "made", site)
    monkeypatch.setattr(SETS[name].module, SETS[name].files, tuple(files))
    check(name, mini(name, tmp_path / "root", download=True), tmp_path / "root", found)
    asked = len(site.log)
    assert asked == len(files) and not list((tmp_path / "root").rglob(".*"))
    by_hand = tmp_path / "by_hand"
    by_hand.mkdir()
    for file in files:
        (by_hand / file.name).write_bytes(site.files[file.name])
    if name != "OxfordFlowers102" and name != "StanfordCars":  # whose lists belong into a folder
        check(name, mini(name, by_hand), by_hand, found)
    if name == "StanfordCars":
        monkeypatch.setattr(photographs, "CARS", tuple(dataclasses.replace(file, urls=()) for file in files))
        (by_hand / "stanford_cars").mkdir()
        (by_hand / "cars_test_annos_withlabels.mat").rename(by_hand / "stanford_cars" / "cars_test_annos_withlabels.mat")
        check(name, mini(name, by_hand, download=True), by_hand, found)
    assert len(site.log) == asked


@pytest.mark.parametrize("name", SETS)
def test_absent_without_download_says_what_to_place_where(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        mini(name, tmp_path / "none")
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{name} is not complete in {tmp_path / 'none'}")
    for file in getattr(SETS[name].module, SETS[name].files):
        assert file.name in message and str(tmp_path / "none" / file.folder).rstrip("/") in message
    assert not (tmp_path / "none").exists()


def test_cars_host_is_gone_and_nothing_is_tried(tmp_path):
    message = "their host is gone: ask those who have them.*, unpacked or not, into .*stanford_cars"
    with pytest.raises(FileNotFoundError, match=message):
        mini("StanfordCars", tmp_path / "none", download=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [name for name in SETS if name != "Caltech101"])
def test_a_missing_image_is_named(tmp_path, name):
    found = SETS[name].make(tmp_path)
    (tmp_path / found["test"][1][0]).unlink()
    with pytest.raises(FileNotFoundError, match="1 of [0-9]+ images are missing, the first is") as caught:
        mini(name, tmp_path)
    assert found["test"][1][0] in str(caught.value)


def test_a_class_of_caltech_that_is_too_small(tmp_path):
    make_caltech101(tmp_path)
    (tmp_path / "caltech-101/101_ObjectCategories/Faces/image_0002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="images are missing in .*Faces"):
        mini("Caltech101", tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("Food101", "food-101/meta/train.json", "{"),
        ("Aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "001\n"),
        ("Aircraft", "fgvc-aircraft-2013b/data/variants.txt", "A-1\n"),
        ("StanfordCars", "stanford_cars/devkit/cars_meta.mat", "?" * 300),
        ("StanfordCars", "stanford_cars/devkit/cars_train_annos.mat", b"\0" * 200),
        ("DTD", "dtd/dtd/labels/test1.txt", "banded\n"),
        ("OxfordIIITPets", "oxford-iiit-pet/annotations/test.txt", "beagle_1 2\n"),
        ("OxfordFlowers102", "flowers-102/setid.mat", "?" * 300),
        ("CUB200", "CUB_200_2011/images.txt", "1 a b\n"),
        ("CUB200", "CUB_200_2011/image_class_labels.txt", "1 1\n"),
        ("CUB200", "CUB_200_2011/train_test_split.txt", "".join(f"{i} x\n" for i in range(1, 6))),
        ("SUN397", "Partitions/Training_01.txt", "abbey.jpg\n"),
        ("SUN397", "Partitions/Testing_01.txt", ""),
        ("SUN397", "Partitions/Testing_01.txt", "/z/zoo/sun_a.jpg"),
    ],
)
def test_a_damaged_list_is_one_line(tmp_path, name, path, content):
    SETS[name].make(tmp_path)
    put(tmp_path, path, content)
    with pytest.raises(ValueError, match="unpack") as caught:
        mini(name, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["StanfordCars", "OxfordFlowers102"])
def test_scipy_is_asked_for(tmp_path, monkeypatch, name):
    SETS[name].make(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ValueError, match=f"{name} lists its images in .mat files, which scipy reads: pip install scipy"):
        mini(name, tmp_path)


# TLlib's layout


def make_lists(root: Path, base: str, parts: dict[str, str]) -> dict[str, Listed]:
    """parts: list name -> folder of its images."""
    found = {}
    for name, folder in parts.items():
        found[name] = [(put(root, f"{base}{folder}/class {label}/{name} {i}.jpg"), label) for i, label in enumerate([1, 0, 1, 0])]
        put(root, f"{base}image_list/{name}.txt", "".join(f"{path[len(base) :]} {label}\n" for path, label in found[name]))
    return found


TLLIB = {
    "CUB200": ("", {"train_100": "train", "train_15": "train", "test": "test"}),
    "Aircraft": ("", {"train_100": "train", "test": "test"}),
    "StanfordCars": ("", {"train_100": "train", "test": "test"}),
    "OxfordIIITPets": ("", {"train": "train", "test": "test"}),
    "DTD": ("", {"train": "train", "validation": "validation", "test": "test"}),
    "OxfordFlowers102": ("", {"train": "train", "validation": "train", "test": "test"}),
    "Caltech101": ("", {"train": "train", "test": "test"}),
    "SUN397": ("SUN397/", {"train": "a", "test": "b"}),
}


@pytest.mark.parametrize("name", TLLIB)
def test_tllibs_lists(tmp_path, monkeypatch, name):
    found = make_lists(tmp_path, *TLLIB[name])
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # lists need none
    data = mini(name, tmp_path)
    expected = {"train": found.get("train_100", found.get("train")), "test": found["test"]}
    if name == "OxfordFlowers102":
        expected["unlabeled"] = found["validation"]
    for part, rows in expected.items():
        assert listed(getattr(data, part)) == [(str(tmp_path / path), label) for path, label in rows]
    assert (data.unlabeled is None) == (name != "OxfordFlowers102")
    assert data.name == name and len(data.classes) == zoo.PUBLISHED[name].classes and data.classes[:2] == ("0", "1")
    published = zoo.PUBLISHED[name].train
    with pytest.raises(ValueError, match=rf"4 training images, {published} were published \({published - 4} are missing\)"):
        zoo.load(name, str(tmp_path))


def test_food101_gives_the_same_order_in_tllibs_layout(tmp_path):
    official = make_food101(tmp_path / "official")
    for part, rows in official.items():
        for path, _ in rows:
            put(tmp_path / "tllib", f"{part}/{'/'.join(Path(path).parts[-2:])}")
    data, other = mini("Food101", tmp_path / "tllib"), mini("Food101", tmp_path / "official")
    for part in ("train", "test"):
        a, b = ([(Path(path).name, label) for path, label in listed(getattr(each, part))] for each in (data, other))
        assert a == b
    assert data.classes == other.classes
    put(tmp_path / "tllib", "test/zebra_cake/1.jpg")
    with pytest.raises(ValueError, match="must have the same class folders; unpack both archives again"):
        mini("Food101", tmp_path / "tllib")


# Flowers at its real size


@pytest.fixture(scope="module")
def real_flowers(tmp_path_factory) -> Path:
    """8,189 links to one file, and lists with the published counts: 10 and 10 a class, the rest for testing."""
    root = tmp_path_factory.mktemp("flowers")
    first = root / put(root, "flowers-102/jpg/image_00001.jpg")
    for i in range(2, 8190):
        os.link(first, root / f"flowers-102/jpg/image_{i:05d}.jpg")
    labels = np.concatenate([np.arange(2040) % 102, np.arange(6149) % 102]) + 1
    savemat(root, "flowers-102/imagelabels.mat", labels=labels[None])
    ids = np.arange(1, 8190)[None]
    savemat(root, "flowers-102/setid.mat", trnid=ids[:, :1020], valid=ids[:, 1020:2040], tstid=ids[:, 2040:])
    return root


@pytest.mark.parametrize("layout", ["official", "tllib"])
def test_flowers_special_rule(real_flowers, tmp_path, layout):
    root = real_flowers
    if layout == "tllib":
        root, data = tmp_path, mini("OxfordFlowers102", real_flowers)
        (root / "train").symlink_to(real_flowers / "flowers-102" / "jpg")
        for part, images in {"train": data.train, "validation": data.unlabeled, "test": data.test}.items():
            lines = (f"train/{Path(path).name} {label}\n" for path, label in listed(images))
            put(root, f"image_list/{part}.txt", "".join(lines))
    data = zoo.load("OxfordFlowers102", str(root), download=False)
    assert data.labeled_given is False and len(data.unlabeled) == 1020
    for n, labeled, unlabeled in ((4, 408, 1632), (10, 1020, 1020)):
        pools = make_pools(data, n, 0)
        assert (len(pools.labeled), len(pools.unlabeled), len(pools.test)) == (labeled, unlabeled, 6149)
        assert pools.unlabeled.paths[-1020:] == data.unlabeled.paths
        oracle = with_true_labels(pools)
        assert len(oracle.labeled) == 2040 and np.bincount(oracle.labeled.targets).tolist() == [20] * 102
    with pytest.raises(ValueError, match="10 images, 11 per class"):
        make_pools(data, 11, 0)


# Constants, counts, speed


def test_addresses_and_checksums_equal_torchvisions():
    from torchvision.datasets import DTD, SUN397, FGVCAircraft, Flowers102, Food101, OxfordIIITPet

    known = {file.urls[0]: file.checksum for name in ("FOOD101", "DTD", "PETS", "FLOWERS") for file in getattr(photographs, name)}
    prefix = Flowers102._download_url_prefix
    assert known == {
        Food101._URL: Food101._MD5, DTD._URL: DTD._MD5, **dict(OxfordIIITPet._RESOURCES),
        **{prefix + name: md5 for name, md5 in Flowers102._file_dict.values()},
    }  # fmt: skip
    assert SUN397._DATASET_URL in sun397.FILES[0].urls and SUN397._DATASET_MD5 == sun397.FILES[0].checksum
    assert photographs.AIRCRAFT[0].urls == (FGVCAircraft._URL,)


def test_every_checksum_looks_like_one():
    for held in SETS.values():
        for file in getattr(held.module, held.files):
            assert len(file.checksum) in (32, 64) and int(file.checksum, 16) or file is photographs.AIRCRAFT[0], file


def test_published_counts():
    """From the papers and pages of the sets, and TLlib's documentation."""
    assert {name: (p.classes, p.train, p.test, p.unlabeled) for name, p in zoo.PUBLISHED.items() if name in SETS} == {
        "Food101": (101, 75750, 25250, 0), "CUB200": (200, 5994, 5794, 0), "Aircraft": (100, 6667, 3333, 0),
        "StanfordCars": (196, 8144, 8041, 0), "SUN397": (397, 19850, 19850, 0), "DTD": (47, 1880, 1880, 0),
        "OxfordIIITPets": (37, 3680, 3669, 0), "OxfordFlowers102": (102, 1020, 6149, 1020), "Caltech101": (102, 3060, 6084, 0),
    }  # fmt: skip


def test_a_large_list_is_read_in_about_a_second(tmp_path):
    """16,000 lines over 400 folders; nothing is decoded, nothing is hashed."""
    first = tmp_path / put(tmp_path, "SUN397/0/0.jpg")
    for folder in range(400):
        (tmp_path / "SUN397" / str(folder)).mkdir(exist_ok=True)
        for i in range(20):
            if folder or i:
                os.link(first, tmp_path / "SUN397" / str(folder) / f"{i}.jpg")
    lines = "".join(f"{folder}/{i}.jpg {folder % 397}\n" for folder in range(400) for i in range(20))
    put(tmp_path, "SUN397/image_list/train.txt", lines)
    put(tmp_path, "SUN397/image_list/test.txt", lines)
    start = time.process_time()
    assert len(mini("SUN397", tmp_path).test) == 8_000
    assert time.process_time() - start < 3
