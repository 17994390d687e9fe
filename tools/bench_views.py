"""Time weak + strong views on one CPU core: batched (ours) against per-image torchvision + timm of the same operations.

    python tools/bench_views.py [--batch 64 448] [--size 32] [--policy rand-m10-n2-mstd2] [--repeats 15] [--json FILE]

Both sides take uint8 images and give two normalised float batches; rounds of the two alternate within one run.  timm's
posterize to 0 bits, at which Pillow 13 raises, keeps 1 bit in the peer (same cost).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment
from torchvision import transforms

from ssl_bench.augment.views import build_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def peer_views(size: int, policy: str) -> tuple[transforms.Compose, transforms.Compose]:
    """TLlib's weak and strong pipelines at `size`, the resize dropped as ours drops it."""
    pad = max(1, size // 8)
    fill = tuple(round(255 * m) for m in MEAN)
    randaugment = auto_augment.rand_augment_transform(
        policy, {"translate_const": 100, "img_mean": fill, "interpolation": Image.Resampling.BILINEAR}
    )
    for op in randaugment.ops:
        if op.aug_fn is auto_augment.posterize:
            op.aug_fn = posterize
    head = [transforms.RandomCrop(size, padding=pad, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    tail = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return transforms.Compose(head + tail), transforms.Compose([*head, randaugment, *tail])


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    return ImageOps.posterize(image, max(1, bits))


def pictures(n: int, size: int) -> np.ndarray:
    """(n, size, size, 3) uint8: smooth waves with a little noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size][:, None, :, :, None]
    a, b, c = rng.uniform(0.1, 0.6, (3, n, 1, 1, 3))
    return (
        (127 + 110 * np.sin(a * x + 9 * c) * np.cos(b * y) + rng.normal(0, 6, (n, size, size, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def compare(batch: int, size: int, policy: str, repeats: int) -> dict[str, object]:
    """Milliseconds for `batch` pairs of views, each round a fresh draw."""
    images = pictures(batch, size)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    options = {"image_size": size, "resizing": "cifar", "mean": MEAN, "std": STD, "policy": policy}
    weak, strong = (build_view(name, **options) for name in ("weak", "strong"))
    peer_weak, peer_strong = peer_views(size, policy)
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        weak(tensor, generator), strong(tensor, generator)

    def theirs() -> None:
        pairs = [(peer_weak(image), peer_strong(image)) for image in map(Image.fromarray, images)]
        torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    for round_ in range(repeats + 2):
        for name, run in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            run()
            if round_ >= 2:  # the first two warm up
                spent[name].append(1e3 * (time.perf_counter() - start))
    ratios = [t / o for o, t in zip(spent["ours"], spent["theirs"], strict=True)]
    return {
        "batch": batch,
        "size": size,
        "policy": policy,
        "ms": {k: summary(v) for k, v in spent.items()},
        "ratio": summary(ratios),
    }


def summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "q1": low, "q3": high, "min": min(values), "n": len(values)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 448], help="images a batch")
    parser.add_argument("--size", type=int, default=32, help="side of the images, pixels")
    parser.add_argument("--policy", default="rand-m10-n2-mstd2", help="timm's rand-* string of the strong view")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    versions = {
        "python": platform.python_version(),
        **{p: version(p) for p in ("torch", "torchvision", "timm", "pillow", "numpy")},
    }
    results = [compare(batch, args.size, args.policy, args.repeats) for batch in args.batch]
    print(
        f"weak + strong at {args.size}x{args.size}, {args.policy}, one thread; "
        + ", ".join(f"{k} {v}" for k, v in versions.items())
    )
    print("median [quartiles] of", args.repeats, "rounds")
    print(f"{'batch':>6} {'ours, ms':>22} {'per image, ms':>24} {'pairs/s, ours':>14} {'ratio':>20}")
    for r in results:
        cells = [
            f"{s['median']:.1f} [{s['q1']:.1f}, {s['q3']:.1f}]"
            for s in (r["ms"]["ours"], r["ms"]["theirs"], r["ratio"])
        ]
        rate = 1e3 * r["batch"] / r["ms"]["ours"]["median"]
        print(f"{r['batch']:>6} {cells[0]:>22} {cells[1]:>24} {rate:>14,.0f} {cells[2]:>20}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"versions": versions, "machine": platform.machine(), "threads": 1, "results": results}, file, indent=1
            )


if __name__ == "__main__":
    main()
