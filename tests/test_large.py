"""Sizes at the edge: 100,000 classes, 1 image a class, batches larger than a set, trees of many files."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import large_tree
import numpy as np
import pytest
import torch
from conftest import LIVE, TINY, last_stage_of

from ssl_bench import assessment, catalog, devices, feed, host_memory, launch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.feed import training_batches
from ssl_bench.method import Task
from ssl_bench.placement import peak_memory
from ssl_bench.pools import Pools, make_pools
from ssl_bench.split import class_balanced_split
from ssl_bench.streams import EndlessOrder
from ssl_bench.trainer import Trainer

CPU = torch.device("cpu")
MANY = 100_000


def noise(classes: int, per_class: int, test: int) -> DataSet:
    """8 x 8 noise, `per_class` images a class, class by class."""
    pixels = torch.randint(0, 256, (classes * per_class, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = np.repeat(np.arange(classes), per_class)
    some = np.linspace(0, len(targets) - 1, test).astype(int)
    names = tuple(f"class {k}" for k in range(classes))
    return DataSet("Noise", names, Images(targets, pixels), Images(targets[some], pixels[some]))


def trained(name: str, pools: Pools, steps: int, *argv: str) -> tuple[Trainer, list[dict[str, float]]]:
    """A trainer that has made `steps` real updates, and what each logged."""
    method = catalog.load_method(name)
    args, _ = launch.resolve(method, [*TINY, *LIVE.get(name, []), *argv])
    built, args = last_stage_of(method, args, pools, CPU)
    trainer, logged = Trainer(built, args, CPU), []
    batches = training_batches(built, pools, args, CPU, 0)
    for _ in range(steps):
        trainer.update(next(batches))
        logged.append(trainer.means.pop())
    trainer.finite.check(trainer.step)
    return trainer, logged


def test_self_tunings_memory_of_too_many_classes_is_refused_with_its_size():
    method = catalog.load_method("self_tuning")
    args, _ = launch.resolve(method, [*TINY, *LIVE["self_tuning"], "--projection-dim", "1024", "--K", "32"])
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"memory of 100,000,000 classes x --K 32 x --projection-dim 1024.*: \d+\.\d GiB.*lower --K") as caught:
        method._initial_memory(type("Asked", (), {"args": args, "task": Task(100_000_000, 4, 4, False)}))
    assert float(re.search(r"([\d.]+) GiB", str(caught.value))[1]) > 12_000 and time.perf_counter() - began < 2


def test_self_tunings_memory_is_all_that_the_machine_is_asked_for(monkeypatch):
    """A step's similarities lie on the run's device: of a GPU's run they were charged to the machine, and refused."""
    method = catalog.load_method("self_tuning")
    args, _ = launch.resolve(method, [*TINY, *LIVE["self_tuning"], "--projection-dim", "8", "--K", "4"])
    monkeypatch.setattr(host_memory, "available", lambda: 4.0 * 10 * 4 * 8)
    assert method._initial_memory(type("Asked", (), {"args": args, "task": Task(10, 4, 4, False)})).shape == (10, 4, 8)


def test_predictions_that_do_not_fit_are_refused_before_they_are_made(tiny, monkeypatch):
    run = tiny("noisy_student")
    monkeypatch.setattr(devices, "free_memory", lambda device: 2.0**10)
    with pytest.raises(ValueError, match=r"the predictions for [\d,]+ images and 10 classes: 0\.0 GiB.*--unlabeled-list"):
        feed.predictions(run.method.model, run.pools.unlabeled, "weak", run.args)


def test_free_memory_is_this_process_s_share_of_the_machine(monkeypatch):
    """Four processes of one machine were each told of all of it."""
    if Path("/proc/meminfo").is_file():
        assert 2**20 < devices.free_memory(CPU) < 2**50
    assert devices.free_memory(torch.device("meta")) == float("inf")
    monkeypatch.setattr(host_memory, "available", lambda: 1000.0)
    for name, value in (("MASTER_ADDR", "here"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert devices.free_memory(CPU) == 250.0
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert devices.free_memory(CPU) == 125.0


def test_what_the_allocator_of_a_gpu_keeps_for_itself_is_free_too(monkeypatch):
    for name, found in (("mem_get_info", (100, 1000)), ("memory_reserved", 600), ("memory_allocated", 250)):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    assert devices.free_memory(torch.device("cuda", 0)) == 450


def test_a_machine_that_does_not_say_refuses_nothing(tmp_path, monkeypatch):
    table = tmp_path / "meminfo"
    monkeypatch.setattr(host_memory, "_TABLE", table)
    assert host_memory.available() == float("inf")
    table.write_text("MemTotal: 10 kB\nMemAvailable:       3 kB\n")
    assert host_memory.available() == 3072


def test_a_class_with_exactly_n_images_is_labelled_whole():
    labelled, rest = class_balanced_split([0, 1, 1, 0, 2, 2, 2], 2, 0)
    assert sorted(labelled[:4]) == [0, 1, 2, 3] and len(rest) == 1 and rest[0] >= 4
    with pytest.raises(ValueError, match="class 0 has 2 images, 3 per class"):
        class_balanced_split([0, 1, 1, 0, 2, 2, 2, 1], 3, 0)


@pytest.fixture(scope="module")
def many() -> Pools:
    """100,000 classes: one labelled image each, 2,000 unlabelled, 500 to evaluate on."""
    data = noise(MANY, 1, 500)
    pools = make_pools(data, 1, 0)
    few = np.arange(0, MANY, 50)
    return Pools(pools.labeled, data.train.take(few), data.test, data.classes, pools.labeled_ids, few)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LIVE) - {"dst"}))
def test_every_method_trains_and_is_evaluated_with_a_hundred_thousand_classes(name, many):
    began = time.process_time()
    trainer, logged = trained(name, many, 2)
    row = assessment.evaluate_method(trainer.method, many, trainer.args, CPU)
    assert 0 <= row["top1"] <= row["top5"] <= 100 and row["loss"] > 0 and row["mean_class"] == pytest.approx(row["top1"])
    assert all(value == value or label in ("pseudo_acc", "kept_pairs") for label, value in logged[-1].items()), logged
    assert peak_memory(CPU) < 8 * 2**30 and time.process_time() - began < 100


@pytest.mark.slow
def test_dst_trains_with_a_hundred_thousand_classes(many):
    """Two heads of their own: at a width of 64 they have 13 million weights, at the default 2,048 half a billion."""
    trainer, _ = trained("dst", many, 2, "--width", "64")
    assert assessment.evaluate_method(trainer.method, many, trainer.args, CPU)["loss"] > 0


@pytest.mark.slow
def test_a_hundred_thousand_classes_are_split_in_seconds(tmp_path):
    began = time.process_time()
    data = noise(MANY, 2, 10)
    pools = make_pools(data, 1, 0, saved=tmp_path / "split.npz")
    assert len(pools.labeled) == len(pools.unlabeled) == MANY and pools.split_hash
    assert np.array_equal(pools.labeled.targets, np.arange(MANY))
    assert time.process_time() - began < 15


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LIVE))
@pytest.mark.parametrize(("batch", "classes"), [(8, 12), (32, 10)], ids=["more classes than a batch", "a batch above both sets"])
def test_one_image_a_class(name, batch, classes):
    """Labelled and unlabelled sets of 10 or 12 images: an epoch order goes round several times within a batch, and none is dropped."""
    pools = make_pools(noise(classes, 2, classes), 1, 0)
    assert len(pools.labeled) == len(pools.unlabeled) == classes
    trainer, _ = trained(name, pools, 3, "--batch-size", str(batch), *(["--finetune-batch-size", "8"] if name == "semi_vit" else []))
    assert assessment.evaluate_method(trainer.method, pools, trainer.args, CPU)["loss"] > 0


@pytest.mark.slow
def test_a_tree_of_twenty_thousand_files(tmp_path, monkeypatch):
    monkeypatch.setattr("ssl_bench.datasets.folder_index.WORTH_KEEPING", 1)
    wnids = large_tree.make(tmp_path / "data", 20, 1_000)
    hashes, seconds = [], {}
    for (what, found), (classes, images) in zip(large_tree.starts(tmp_path / "data", wnids), large_tree.expected(20, 1_000), strict=True):
        assert (found["classes"], found["images"]) == (classes, images), what
        hashes.append(json.dumps(found["hash"]))
        seconds[what] = found["ready"]
        assert found["mib"] < 60 and found["ready"] < 10, (what, found)
    assert hashes[0] == hashes[1] == hashes[6] and len(set(hashes)) > 2, "the split is that of the files, read or remembered"


def test_batches_of_a_set_smaller_than_they_are():
    """No image is dropped: every one comes as often as any other, give or take one."""
    order = EndlessOrder(10, 32, 0)
    seen = np.bincount(np.concatenate([order.batch(k) for k in range(25)]), minlength=10)
    assert seen.tolist() == [80] * 10
    assert len(order._cached) <= 5, "and no permutation of a round that is over is kept"
