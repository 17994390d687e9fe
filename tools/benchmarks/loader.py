"""The host's share of a batch - decode, crop both views to uint8 - against the whole per-image Pillow pipeline; what passes cost.

A, from JPEG and from the cache: what a worker of ours does for the weak and strong view of an image, one array a view ready
to copy.  B: decode, crop, flip, `rand-m10-n2-mstd2`, to tensor, normalise, stack: all of it on the host, as the peers do.
The images are cuts of the two photographs that scikit-learn carries, 500x375, JPEG quality 90.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import harness
from benchmarks.augment import MEAN, POLICY, STD, peer_views
from benchmarks.harness import Options, Row, seconds
from PIL import Image

from ssl_bench.augment.views import View, build_view
from ssl_bench.datasets import decode, pixel_file
from ssl_bench.datasets.cache import shorten
from ssl_bench.datasets.images import Images
from ssl_bench.datasets.pixel_file import CachedRows, PixelFile
from ssl_bench.streams import Cropper, EndlessOrder, Stream, endless_plans, sequential_plans

CPU = torch.device("cpu")
BILINEAR = Image.Resampling.BILINEAR
SIZE, SHORT_SIDE, BATCH = 224, 256, 32
CASE = "weak + strong at 224 px of a 500x375"


def run(options: Options) -> dict[str, Any]:
    """Pairs per second on one thread, the parts of it, passes over 40 labelled images, memory of a cached run."""
    rows: list[Row] = []
    count, rounds = (8, 1) if options.tiny else (128, options.rounds_or(9))
    folder = Path(tempfile.mkdtemp(prefix="ssl-bench-loader-"))
    try:
        with harness.threads(options.threads or 1):
            files = photographs(folder, count)
            on_disk = Images(np.zeros(count, dtype=np.int64), paths=files)
            cached = in_a_cache(folder, on_disk)
            rows += shares(on_disk, cached, rounds, options)
            rows += parts(on_disk, cached, rounds, options)
            rows += passes(on_disk, rounds, options)
            rows += memory(folder, options)
    finally:
        shutil.rmtree(folder)
    return harness.report("loader", rows, options)


def shares(on_disk: Images, cached: Images, rounds: int, options: Options) -> list[Row]:
    """The targets: our host's share against the whole pipeline."""
    rows = []
    theirs = ("per-image Pillow, whole", seconds(whole_pipeline(on_disk.files)))
    for case, images, goal in ((f"{CASE} JPEG", on_disk, ">= 2.5"), (f"{CASE} photograph, from the cache", cached, ">= 6")):
        if options.wants(case):
            ours = ("ssl_bench, host's share", seconds(hosts_share(images)))
            work = (len(images), "pairs")
            rows.append(harness.compare(case, ours, theirs, rounds=rounds, ratio="b/a", goal=goal, work=work, policy=POLICY))
    return rows


def parts(on_disk: Images, cached: Images, rounds: int, options: Options) -> list[Row]:
    """What the time goes into, each against Pillow's way of doing the same."""
    n, rows = len(on_disk), []
    decoded = [on_disk.load(i) for i in range(n)]
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in decoded]
    weak, draws = views()[0], views()[0].draw_crop(n, tuple(decoded[0].shape[1:]), torch.Generator().manual_seed(0))
    assert draws.box is not None
    boxes = [(left, top, left + w, top + h) for top, left, h, w in draws.box.tolist()]
    cases: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "decoding": (lambda: [on_disk.load(i) for i in range(n)], lambda: [np.asarray(opened(path)) for path in on_disk.files]),
        "one crop": (
            lambda: weak.crop_each(decoded, draws),
            lambda: [np.asarray(p.crop(b).resize((SIZE, SIZE), BILINEAR)) for p, b in zip(pictures, boxes, strict=True)],
        ),
        "reading the cache": (
            lambda: [cached.load(i) for i in range(n)],
            lambda: [np.asarray(opened(path)) for path in on_disk.files],
        ),
    }
    for name, (ours, theirs) in cases.items():
        if options.wants(case := f"{name}, 500x375"):
            a, b = ("ssl_bench", seconds(ours)), ("Pillow", seconds(theirs))
            rows.append(harness.compare(case, a, b, rounds=rounds, ratio="b/a", work=(n, "images")))
    return rows


def passes(on_disk: Images, rounds: int, options: Options) -> list[Row]:
    """A labelled set of 40 images, batch 32: every batch needs a new pass."""
    labelled, batch = on_disk.take(np.arange(min(40, len(on_disk)))), min(32, len(on_disk))
    rows = []
    forever = stream(labelled, batch)
    if options.wants(case := "a batch of 32 of 40 labelled files, against a large set"):
        many = stream(on_disk.take(np.arange(4000) % len(on_disk)), batch)
        rows.append(
            harness.compare(
                case, ("40 images", seconds(lambda: next(forever), 12)), ("4,000 images", seconds(lambda: next(many), 12)),
                rounds=rounds, warm_up=2, ratio="a/b", goal="<= 1.05", work=(batch, "pairs"), workers=1,
            )
        )  # fmt: skip
    if options.wants(case := "a batch of 32 of 40 labelled files, against workers started for each pass"):
        restarted = started_again(labelled, batch)
        rows.append(
            harness.compare(
                case, ("workers that live on", seconds(lambda: next(forever), 3)),
                ("new workers", seconds(lambda: next(restarted), 3)), rounds=rounds, warm_up=2, ratio="b/a", work=(batch, "pairs"), workers=1,
            )
        )  # fmt: skip
    return rows


def memory(folder: Path, options: Options) -> list[Row]:
    """What a pass over a cache adds to the memory of the run and its workers, in a process of its own."""
    case = "memory of a pass over a cache, run and 2 workers"
    if not options.wants(case):
        return []
    if not Path("/proc/self/smaps_rollup").exists():
        return [harness.skipped(case, "this system does not tell a process's share of mapped pages")]
    mebibytes = 16 if options.tiny else 2048
    path = folder / "large.pixels"
    image = np.random.default_rng(0).integers(0, 256, (SHORT_SIDE, 341, 3), dtype=np.uint8)
    n = mebibytes * 2**20 // image.nbytes
    with open(path, "wb") as file:
        pixel_file.write(file, itertools.repeat(image, n), n, SHORT_SIDE, bytes(32))
    argv = [sys.executable, "-m", "benchmarks.loader", str(path), str(n)]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True, cwd=Path(__file__).parent.parent)
    added, size = map(int, done.stdout.split())
    notes = dict(of="of the file", file_mib=size / 2**20, added_mib=added / 2**20)
    return [harness.figure(case, [added / size], unit="x", goal="" if options.tiny else "<= 1.2", **notes)]


def photographs(folder: Path, count: int) -> tuple[str, ...]:
    """`count` different 500x375 cuts of two photographs, as JPEG of quality 90."""
    from sklearn.datasets import load_sample_images

    random, paths = np.random.default_rng(0), []
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        picture = pictures[i % len(pictures)]
        height = int(random.integers(260, picture.height + 1))
        width = height * 4 // 3
        left, top = int(random.integers(picture.width - width + 1)), int(random.integers(picture.height - height + 1))
        paths.append(str(folder / f"{i}.jpg"))
        cut = picture.crop((left, top, left + width, top + height))
        cut.resize((500, 375), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return tuple(paths)


def in_a_cache(folder: Path, images: Images) -> Images:
    with open(folder / "cache.pixels", "wb") as file:
        small = (shorten(decode.decode(path), SHORT_SIDE) for path in images.files)
        pixel_file.write(file, small, len(images), SHORT_SIDE, bytes(32))
    rows = CachedRows(PixelFile(folder / "cache.pixels", SHORT_SIDE, bytes(32)), np.arange(len(images)))
    return Images(images.targets, cached=rows)


def views() -> tuple[View, View]:
    shared: dict[str, Any] = {"image_size": SIZE, "resizing": "default", "mean": MEAN, "std": STD, "policy": POLICY}
    return build_view("weak", **shared), build_view("strong", **shared)


def hosts_share(images: Images) -> Callable[[], None]:
    cropper = Cropper(images, views(), (0,))

    def ours() -> None:
        for plan in sequential_plans(len(images), BATCH):
            cropper[plan]

    return ours


def whole_pipeline(paths: Sequence[str]) -> Callable[[], None]:
    weak, strong = peer_views(SIZE, POLICY, resized=True)

    def theirs() -> None:
        for first in range(0, len(paths), BATCH):
            pairs = [(weak(image), strong(image)) for image in map(opened, paths[first : first + BATCH])]
            torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    return theirs


def opened(path: str) -> Image.Image:
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def stream(images: Images, batch: int) -> Iterator[Any]:
    """What a worker sends, without the views' second half: that is the device's."""
    loader = Stream(images, views(), endless_plans(EndlessOrder(len(images), batch, 0), 0), (0,), CPU, workers=1)._loader
    return iter(loader)


def started_again(images: Images, batch: int) -> Iterator[Any]:
    """A DataLoader of the same work whose workers are started for each pass, as TLlib's ForeverDataIterator does."""
    while True:
        plans = itertools.islice(endless_plans(EndlessOrder(len(images), batch, 0), 0), len(images) // batch)
        yield from torch.utils.data.DataLoader(Cropper(images, views(), (0,)), sampler=plans, batch_size=None, num_workers=1)


def main(path: str, count: str) -> None:
    """Print the bytes that a pass over the cache adds to this process and its workers, and the size of the file."""
    rows = CachedRows(PixelFile(Path(path), SHORT_SIDE, bytes(32)), np.arange(int(count)))
    images = Images(np.zeros(len(rows), np.int64), cached=rows)
    before, most = resident_bytes(), 0
    plans = list(sequential_plans(len(images), BATCH))
    loader = Stream(images, views(), plans, (0,), CPU, workers=2)._loader
    for k, _ in enumerate(loader):
        if k % 50 == 0 or k > len(plans) - 10:
            most = max(most, resident_bytes())
    print(most - before, os.path.getsize(path))


def resident_bytes() -> int:
    """Bytes of memory of this process and its children; a page that several of them map counts once."""
    total = 0
    own = str(os.getpid())
    for status in Path("/proc").glob("[0-9]*/stat"):
        pid = status.parent.name
        try:
            parent = status.read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            if own in (pid, parent):
                sizes = re.findall(r"^Pss: *(\d+) kB", (status.parent / "smaps_rollup").read_text(encoding="utf-8"), re.MULTILINE)
                total += 1024 * int(sizes[0])
        except OSError:
            continue  # ended meanwhile
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
