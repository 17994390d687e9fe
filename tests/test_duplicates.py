"""Images that stand in a data set twice: found by content, said once, recorded, and cheap to look for."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, last_stage, only_run
from PIL import Image

from ssl_bench import catalog, curves, duplicates, launch, zoo
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.pools import make_pools
from ssl_bench.record import RunFolder, read_jsonl


def images(n: int, seed: int, shape: tuple[int, ...] = (1, 8, 8)) -> Images:
    random = np.random.default_rng(seed)
    pixels = torch.from_numpy(random.integers(0, 256, (n, *shape), dtype=np.uint8))
    return Images(np.arange(n, dtype=np.int64) % 10, pixels)


def leaky(shape: tuple[int, ...] = (1, 8, 8)) -> DataSet:
    """Test images 3 and 7 are training images 11 and 40, test image 5 is unlabelled image 2, training image 60 is image 4."""
    train, test, more = images(100, 0, shape), images(20, 1, shape), images(9, 2, shape)
    train.pixels[60] = train.pixels[4]
    for i, other, j in ((3, train, 11), (7, train, 40), (5, more, 2)):
        test.pixels[i] = other.pixels[j]
    return DataSet("Leaky", tuple("abcdefghij"), train, test, more)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 1, 1), (3, 32, 32)])
def test_equal_images_are_found_and_near_ones_are_not(shape):
    data = leaky(shape)
    if shape != (1, 1, 1):  # there, 256 images are all there are
        data.test.pixels[9] = data.train.pixels[70]
        data.test.pixels[9, -1, -1, -1] ^= 1
    (found, *again) = duplicates.of_data_set(data)
    rows = {part: [image.tobytes() for image in getattr(data, part).pixels.numpy()] for part in ("train", "unlabeled", "test")}
    want = {i for i, image in enumerate(rows["test"]) if image in rows["train"] or image in rows["unlabeled"]}
    assert {i for i, _, _ in found.pairs} == want >= {3, 5, 7}
    for i, other, j in found.pairs:
        assert rows["test"][i] == rows["train" if other == "training" else "unlabeled"][j]
    assert (60, "training", rows["train"].index(rows["train"][60])) in again[0].pairs
    if shape != (1, 1, 1):
        assert found.pairs == ((3, "training", 11), (5, "unlabelled", 2), (7, "training", 40)) and len(again) == 1
        assert found.line() == "3 of the 20 test images are training or unlabelled images, too (test 3 = training 11, test 5 = unlabelled 2, test 7 = training 40)"
        assert again[0].line() == "1 of the 100 training images stand there twice (training 60 = training 4)"


def test_a_key_is_of_the_bytes_wherever_they_lie():
    """Images of whole words are not copied first: those that begin between two words, or lie apart, have the same keys."""
    rows = np.random.default_rng(0).integers(0, 256, (5000, 1 + 192), dtype=np.uint8)
    apart = rows[:, 1:].reshape(5000, 192)
    between = np.frombuffer(b"x" + apart.tobytes(), dtype=np.uint8)[1:].reshape(5000, 3, 8, 8)
    want = duplicates._keys(np.ascontiguousarray(apart))
    assert len(set(want.tolist())) == 5000
    assert np.array_equal(duplicates._keys(apart), want) and np.array_equal(duplicates._keys(between), want)


def test_images_whose_keys_collide_are_compared(monkeypatch):
    monkeypatch.setattr(duplicates, "_keys", lambda pixels: np.zeros(len(pixels), dtype=np.uint64))
    data = leaky()
    assert duplicates.of_data_set(data)[0].pairs == ((3, "training", 11), (5, "unlabelled", 2), (7, "training", 40))


def test_held_out_images_are_looked_for_in_both_pools():
    data = leaky()
    pools = make_pools(data, 2, 0, num_val=2)
    pools.val.pixels[1] = pools.labeled.pixels[6]
    pools.val.pixels[0] = pools.unlabeled.pixels[5]
    test, held_out = duplicates.of_run(data, pools)
    assert test.name == "test" and held_out.pairs == ((0, "unlabelled", 5), (1, "labelled", 6))


def test_the_parts_of_a_split_are_disjoint_by_content(digits):
    """Digits has no image twice, so none may be in two parts; labelled images are in the unlabelled pool only where that is asked for."""
    assert duplicates.of_data_set(digits) == []
    for whole in (False, True):
        pools = make_pools(digits, 4, 0, num_val=5, unlabeled_all=whole)
        parts = {"labelled": pools.labeled, "unlabelled": pools.unlabeled, "held-out": pools.val, "test": pools.test}
        content = {name: {image.tobytes() for image in part.pixels.numpy()} for name, part in parts.items()}
        assert all(len(content[name]) == len(part) for name, part in parts.items())
        shared = {(a, b) for a in parts for b in parts if a < b and content[a] & content[b]}
        assert shared == ({("labelled", "unlabelled")} if whole else set())
        assert not whole or content["labelled"] <= content["unlabelled"]
        assert duplicates.of_run(digits, pools) == []


@pytest.fixture
def broken_digits(digits, monkeypatch) -> DataSet:
    test = digits.test.pixels.clone()
    test[[9, 20]] = digits.train.pixels[[100, 200]]
    data = DataSet("Digits", digits.classes, digits.train, Images(digits.test.targets, test))
    monkeypatch.setattr(zoo, "load", lambda *_, **__: data)
    return data


def test_a_run_says_so_in_one_line_and_records_it_in_every_stage(broken_digits, tmp_path, capsys, monkeypatch):
    name, argv = "noisy_student", [*TINY, "--log", str(tmp_path), "--generations", "1", "--teacher-epochs", "1"]
    assert launch.run_command(catalog.load_method(name), argv) == 0
    text = "Digits: 2 of the 500 test images are training images, too (test 9 = training 100, test 20 = training 200)"
    assert capsys.readouterr().err.splitlines().count(f"{name}: warning: {text}") == 1
    folder = last_stage(only_run(tmp_path))
    assert json.loads((folder.parent / "args.json").read_text())["stages"] == ["generation0", "generation1"]
    assert json.loads((folder / "args.json").read_text())["stages"] == []
    rows = read_jsonl(folder / "metrics.jsonl")
    assert rows[0] == {"step": 0, "epoch": 0, "kind": "warning", "text": text}
    assert [row["kind"] for row in rows].count("warning") == 1
    assert curves.warnings(rows) == [(0, text)] == curves.warnings(read_jsonl(folder.parent / "generation0" / "metrics.jsonl"))
    for file in (folder / "result.json", only_run(tmp_path) / "result.json", folder / "checkpoints" / "state-00000006.pt"):
        file.unlink(missing_ok=True)
    monkeypatch.setattr(duplicates, "find", None)  # not looked for again
    assert launch.run_command(catalog.load_method(name), argv) == 0  # resumed: said again, recorded once
    assert read_jsonl(folder / "metrics.jsonl") == rows and text in capsys.readouterr().err


def test_of_several_processes_the_first_looks(broken_digits, tmp_path, monkeypatch):
    folder, pools = RunFolder(tmp_path), make_pools(broken_digits, 2, 0)
    assert len(launch._said_of(broken_digits, pools, folder)) == 1
    folder.writes = False
    monkeypatch.setattr(duplicates, "find", None)
    assert launch._said_of(broken_digits, pools, folder) == []


def tool():
    path = Path(__file__).parent.parent / "tools" / "duplicates.py"
    spec = importlib.util.spec_from_file_location("duplicates_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_compared_by_their_bytes_when_asked(tmp_path, capsys):
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("ant", "bee"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (9, 9 + i % 2, 3), dtype=np.uint8)).save(tmp_path / "data" / part / name / f"{i}.png")
    (tmp_path / "data/test/bee/1.png").write_bytes((tmp_path / "data/train/ant/4.png").read_bytes())
    data = zoo.load("ImageFolder", str(tmp_path / "data"))
    assert duplicates.of_run(data, make_pools(data, 2, 0)) == []  # a run does not read all files for it
    assert tool().main([str(tmp_path / "data"), "-d", "ImageFolder", "--out", "found.csv"]) == 1
    assert capsys.readouterr().out == "1 of the 6 test images are training images, too (test 4 = training 4)\n"
    assert Path("found.csv").read_text().splitlines() == ["part,position,other,position_there", "test,4,training,4"]


def test_the_tool_says_when_there_is_nothing_and_when_there_is_no_such_set(capsys):
    assert tool().main(["-d", "Digits"]) == 0
    assert capsys.readouterr().out == "no image stands there twice\n"
    assert tool().main(["-d", "CIFAR10", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("duplicates.py: error: ")


def test_a_set_of_cifars_size_is_compared_in_well_under_a_second():
    train, test = images(50_000, 0, (3, 32, 32)), images(10_000, 1, (3, 32, 32))
    test.pixels[:40] = train.pixels[123:163]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = duplicates.find(("test", test), [("training", train)])
        seconds.append(time.perf_counter() - start)
    assert found.pairs == tuple((i, "training", 123 + i) for i in range(40))
    assert min(seconds) < 0.7, seconds
