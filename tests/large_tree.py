"""An ImageNet-like tree of 1.3 million files: how long a start takes, cold and warm, and what it notices.

    python tests/large_tree.py [CLASSES [PER_CLASS [FOLDER]]]     1,000 and 1,300, in a folder of its own that is removed again

The files are links to one small picture (as many as a file may have, then another), so that they cost no room.  Each start is
a process of its own that loads the data set and draws a split; its time and memory are without the imports.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from ssl_bench import zoo
from ssl_bench.pools import make_pools

LINKS = 30_000  # to one file; ext4 allows 65,000
PER_TEST_CLASS = 50
def make(root: Path, classes: int, per_class: int) -> list[str]:
    """train/<wnid>/<wnid>_<k>.JPEG and val/<wnid>/...; every folder last changed long ago.  Returns the wnids."""
    wnids = [f"n{k:08d}" for k in range(1, classes + 1)]
    pictures = root / "pictures"
    pictures.mkdir(parents=True)

    def fill(k: int) -> None:
        picture = pictures / f"{k * (per_class + PER_TEST_CLASS) // LINKS}.png"
        for part, count in (("train", per_class), ("val", PER_TEST_CLASS)):
            folder = root / part / wnids[k]
            folder.mkdir(parents=True)
            for i in range(count):
                os.link(picture, f"{folder}/{wnids[k]}_{i}.JPEG")
            os.utime(folder, (1e9, 1e9))

    for k in range(classes * (per_class + PER_TEST_CLASS) // LINKS + 1):
        Image.new("RGB", (256, 256), (k % 256, 0, 0)).save(pictures / f"{k}.png")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(classes)))
    return wnids


def start(name: str, root: Path) -> dict[str, Any]:
    """What a process that starts with the data set `name` says of it; a copy of this one, so that imports do not count."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(_started(name, root)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as said:
        found = json.loads(said.read() or '{"classes": 0, "images": 0, "loaded": 0, "ready": 0, "mib": 0}')
    os.waitpid(child, 0)
    return found


def _started(name: str, root: Path) -> dict[str, Any]:
    began, before = time.perf_counter(), _resident()
    data = zoo.load(name, str(root), check_counts=False)
    loaded = time.perf_counter() - began
    pools = make_pools(data, 1, 0)
    hashed = pools.split_hash  # which every checkpoint holds
    return {
        "images": len(data.train), "classes": len(data.classes), "loaded": loaded, "ready": time.perf_counter() - began,
        "mib": (_resident() - before) / 2**20, "hash": hashed,
    }  # fmt: skip


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def starts(root: Path, wnids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was done before, what the start then found), of one data set after the other."""
    for name in ("ImageNet", "ImageFolder"):
        for change in ("cold", "warm", "a new file", "a file renamed", "a file removed", "a class removed"):
            train = root / "train"
            if change == "a new file":
                os.link(root / "pictures" / "0.png", train / wnids[0] / "new.JPEG")
            elif change == "a file renamed":
                (train / wnids[0] / "new.JPEG").rename(train / wnids[0] / "newer.JPEG")
            elif change == "a file removed":
                (train / wnids[0] / "newer.JPEG").unlink()
            elif change == "a class removed":
                for part in ("train", "val"):
                    (root / part / wnids[-1]).rename(root / f"{part}-{wnids[-1]}")
            yield f"{name}, {change}", start(name, root)
        for part in ("train", "val"):
            (root / f"{part}-{wnids[-1]}").rename(root / part / wnids[-1])


def expected(classes: int, per_class: int) -> list[tuple[int, int]]:
    """(classes, training images) of each of `starts`."""
    whole = classes * per_class
    once = [(classes, whole), (classes, whole), (classes, whole + 1), (classes, whole + 1), (classes, whole), (classes - 1, whole - per_class)]
    return once * 2


def main(argv: Sequence[str]) -> int:
    classes, per_class = (int(value) for value in (*argv[:2], *(1_000, 1_300)[len(argv[:2]) :]))
    with tempfile.TemporaryDirectory(dir=argv[2] if len(argv) > 2 else None) as folder:
        root, began = Path(folder) / "data", time.perf_counter()
        wnids = make(root, classes, per_class)
        print(f"{classes * per_class:,} files of {classes:,} classes made in {time.perf_counter() - began:.0f} s", flush=True)
        wrong = 0
        for (what, found), (count, images) in zip(starts(root, wnids), expected(classes, per_class), strict=True):
            right = (found["classes"], found["images"]) == (count, images)
            wrong += not right
            print(f"{what:32} loaded {found['loaded']:6.2f} s, with its split {found['ready']:6.2f} s, {found['mib']:5.0f} MiB{'' if right else '  WRONG'}", flush=True)
        for index in root.glob(".ssl-bench-cache/*"):
            print(f"index: {index.stat().st_size:,} bytes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
