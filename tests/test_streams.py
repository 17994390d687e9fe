"""Batch k is a function of (seed, k) and the row alone."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_bench.augment.views import build_view
from ssl_bench.datasets.images import Images
from ssl_bench.streams import EndlessOrder, Stream, endless_plans, seed_of, sequential_plans

CPU = torch.device("cpu")
FLAGS = dict(image_size=8, resizing="cifar", mean=(0.5,) * 3, std=(0.5,) * 3, policy="rand-m10-n2-mstd2")


def make_images() -> Images:
    pixels = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(np.arange(30), pixels)


@pytest.fixture
def images() -> Images:
    return make_images()


def take(images, n, start=0, seed=0, rank=0, world=1, batch_size=8, views=("weak", "strong")):
    plans = endless_plans(EndlessOrder(len(images), batch_size, seed, 1), start, rank, world)
    built = tuple(build_view(name, **FLAGS) for name in views)
    return list(itertools.islice(Stream(images, built, plans, (seed, 1), CPU), n))


def test_each_round_is_a_permutation_and_rounds_differ():
    order = EndlessOrder(10, 4, 0)
    places = np.concatenate([order.batch(k) for k in range(5)])
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert list(places[:10]) != list(places[10:])


def test_any_batch_can_be_asked_for_in_any_order():
    order = EndlessOrder(7, 3, 5)
    forward = [order.batch(k).tolist() for k in range(20)]
    assert [order.batch(k).tolist() for k in reversed(range(20))] == forward[::-1]
    assert EndlessOrder(7, 3, 5).batch(13).tolist() == forward[13]


def test_a_batch_may_be_larger_than_the_set():
    assert np.bincount(EndlessOrder(3, 10, 0).batch(0), minlength=3).tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="empty"):
        EndlessOrder(0, 4, 0)


def test_a_stream_started_late_gives_the_same_batches(images):
    whole, late = take(images, 6), take(images, 2, start=4)
    for (views_a, targets_a, ids_a), (views_b, targets_b, ids_b) in zip(whole[4:], late, strict=True):
        assert torch.equal(ids_a, ids_b) and torch.equal(targets_a, targets_b)
        assert all(torch.equal(a, b) for a, b in zip(views_a, views_b, strict=True))


def test_targets_and_ids_belong_to_the_images(images):
    for _, targets, ids in take(images, 4):
        assert torch.equal(targets, ids)


def test_other_seed_other_order_and_other_images(images):
    (views_a, _, ids_a), (views_b, _, ids_b) = take(images, 1)[0], take(images, 1, seed=1)[0]
    assert not torch.equal(ids_a, ids_b) and not torch.equal(views_a[0], views_b[0])


def test_two_weak_views_of_an_image_are_two_draws(images):
    ((a, b), _, _) = take(images, 1, views=("weak", "weak"))[0]
    assert not torch.equal(a, b)


def test_an_image_is_drawn_anew_in_each_round():
    """Of images that are all the same, so that every row is seen with every image."""
    same = Images(np.arange(30), make_images().pixels[:1].expand(30, -1, -1, -1))
    (first, _, _), (second, _, _) = take(same, 2, batch_size=30)
    for a, b in zip(first, second, strict=True):
        assert (a != b).flatten(1).any(dim=1).sum() > 20


def test_ranks_share_out_the_same_global_batch(images):
    (whole, _, ids) = take(images, 1)[0]
    parts = [take(images, 1, rank=rank, world=2)[0] for rank in (0, 1)]
    for rank, (views, _, part_ids) in enumerate(parts):
        assert torch.equal(part_ids, ids[rank::2])
        assert all(torch.equal(view, full[rank::2]) for view, full in zip(views, whole, strict=True))


def test_grey_becomes_three_equal_channels(images):
    ((weak, _), _, _) = take(images, 1)[0]
    assert weak.shape == (8, 3, 8, 8) and torch.equal(weak[:, 0], weak[:, 2])


def test_sequential_plans_cover_everything_once():
    plans = list(sequential_plans(10, 4))
    assert np.concatenate([plan.positions for plan in plans]).tolist() == list(range(10))
    assert [len(plan.positions) for plan in plans] == [4, 3, 3]


@pytest.mark.parametrize(("n", "world"), [(10, 2), (10, 3), (4, 4), (5, 4), (257, 4)])
def test_every_process_evaluates_some_rows_of_every_batch_and_all_are_evaluated_once(n, world):
    parts = [list(sequential_plans(n, 4, rank, world)) for rank in range(world)]
    assert len({len(plans) for plans in parts}) == 1
    rows = [plan.positions[plan.rows] for plans in parts for plan in plans]
    assert min(map(len, rows)) >= 1
    assert sorted(np.concatenate(rows).tolist()) == list(range(n))


def test_near_keys_give_unrelated_seeds():
    seeds = {seed_of(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900 and max(seeds) < 2**63


# One stream, many iterations


def files(root) -> Images:
    random = np.random.RandomState(0)
    for i in range(8):
        Image.fromarray(random.randint(0, 256, (9 + i, 12, 3)).astype(np.uint8)).save(root / f"{i}.png")
    return Images(np.arange(8), paths=tuple(str(root / f"{i}.png") for i in range(8)))


def stream_over(images, workers=0, **options) -> Stream:
    view = build_view("test", **{**FLAGS, "resizing": "default"})
    return Stream(images, (view,), list(sequential_plans(len(images), 3)), (0, 0), CPU, workers, **options)


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_stream_gives_the_same_again_and_survives_a_cut_iteration(images, tmp_path, kind):
    stream = stream_over(images if kind == "memory" else files(tmp_path), workers=1)
    first = [(x.clone(), ids.tolist()) for (x,), _, ids in stream]
    next(iter(stream))
    for (x, ids), ((again,), _, ids_again) in zip(first, stream, strict=True):
        assert torch.equal(x, again) and ids == ids_again.tolist()


def test_workers_live_on_between_iterations(tmp_path):
    stream = stream_over(files(tmp_path), workers=1)
    pids = []
    before = set(multiprocessing.active_children())
    for _ in range(3):
        assert len(list(stream)) == 3
        pids.append([child.pid for child in multiprocessing.active_children() if child not in before])
    assert pids[0] == pids[1] == pids[2] != []
    del stream
    gc.collect()
    until = time.monotonic() + 20  # on a busy machine a worker takes a while to leave
    while set(multiprocessing.active_children()) - before and time.monotonic() < until:
        time.sleep(0.05)
    assert not set(multiprocessing.active_children()) - before


def test_files_and_memory_draw_the_same(tmp_path):
    pixels = make_images().pixels[:8].expand(-1, 3, -1, -1)
    for i, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(tmp_path / f"{i}.png")
    on_disk = Images(np.arange(8), paths=tuple(str(tmp_path / f"{i}.png") for i in range(8)))
    for ours, theirs in zip(take(on_disk, 3), take(Images(np.arange(8), pixels.contiguous()), 3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours[0], theirs[0], strict=True))


def test_ranks_share_out_the_same_batch_of_files(tmp_path):
    images = files(tmp_path)
    whole = take(images, 1, batch_size=70)[0]  # more rows than a worker decodes at once
    for rank in (0, 1, 2):
        views, _, ids = take(images, 1, rank=rank, world=3, batch_size=70)[0]
        assert torch.equal(ids, whole[2][rank::3])
        assert all(torch.equal(view, full[rank::3]) for view, full in zip(views, whole[0], strict=True))


def test_a_set_above_the_limit_stays_where_it_is(images):
    for limit, moved in ((images.pixels.nbytes, True), (images.pixels.nbytes - 1, False)):
        view = build_view("test", **FLAGS)
        stream = Stream(images, (view,), [], (0, 0), torch.device("meta"), device_limit=limit)
        assert (stream._pixels.device.type == "meta") == moved


@pytest.mark.parametrize("resizing", ["default", "cifar"])
def test_no_batch_from_memory_asks_the_device_for_a_number(images, resizing):
    flags = {**FLAGS, "resizing": resizing, "erasing": 0.5, "cutout": 0.3}
    built = tuple(build_view(name, **flags) for name in ("weak", "strong"))
    stream = iter(Stream(images, built, endless_plans(EndlessOrder(30, 8, 0), 0), (0,), CPU))
    next(stream)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            next(stream)
        list(stream_over(images))
    assert not [event for event in profile.key_averages() if event.key in ("aten::_local_scalar_dense", "aten::item")]


HELD_TO_THE_END = """
import numpy as np, sys, torch
from ssl_bench.augment.views import build_view
from ssl_bench.datasets.images import Images
from ssl_bench.streams import EndlessOrder, Stream, endless_plans
view = build_view("test", image_size=8, resizing="default", mean=(0.5,) * 3, std=(0.5,) * 3)
images = Images(np.zeros(8, np.int64), paths=tuple(f"{sys.argv[1]}/{i}.png" for i in range(8)))
stream = Stream(images, (view,), endless_plans(EndlessOrder(8, 3, 0), 0), (0,), torch.device("cpu"), workers=1)
iterator = iter(stream)
next(iterator)
"""


@pytest.mark.slow
def test_a_process_that_holds_a_stream_to_its_end_ends(tmp_path):
    files(tmp_path)
    subprocess.run([sys.executable, "-c", HELD_TO_THE_END, str(tmp_path)], check=True, timeout=120)
