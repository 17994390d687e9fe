"""Weak + strong views, batched on the device, against torchvision + timm + Pillow image by image; and what limits them.

Both sides take uint8 images and give two normalised float batches, padded crop, flip and `rand-m10-n2-mstd2`, as TLlib at the
image's own size.  timm's posterize to 0 bits, at which Pillow 13 raises, keeps 1 bit in the peer (same cost).  The physical
floor is a copy of the bytes a pair of views must at least move: read uint8 once, write two float batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks import harness
from benchmarks.harness import Options, Row, seconds
from PIL import Image, ImageOps
from timm.data import auto_augment
from torchvision import transforms

from ssl_bench.augment.views import View, build_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POLICY = "rand-m10-n2-mstd2"
GOALS = {(448, 32): ">= 6"}


def run(options: Options) -> dict[str, Any]:
    """Pairs per second at 32 px (batch 64 and 448) and 224 px (batch 32), one thread."""
    rows: list[Row] = []
    cases = [(8, 32)] if options.tiny else [(64, 32), (448, 32), (32, 224)]
    with harness.threads(options.threads or 1):
        for batch, size in cases:
            rounds = options.rounds_or(15 if size == 32 else 7)
            ours, theirs = (make(batch, size) for make in (batched_views, per_image_views))
            if options.wants(case := f"weak + strong, batch {batch}, {size} px"):
                rows.append(
                    harness.compare(
                        case, ("ssl_bench views", seconds(ours)), ("per-image Pillow", seconds(theirs)), rounds=rounds, warm_up=2,
                        ratio="b/a", goal=GOALS.get((batch, size), ""), work=(batch, "pairs"), policy=POLICY,
                    )
                )  # fmt: skip
            if options.wants(case := f"distance to the floor, batch {batch}, {size} px"):
                floor = memory_copy(batch, size)
                rows.append(
                    harness.compare(
                        case, ("ssl_bench views", seconds(ours)), ("copy of the same bytes", seconds(floor, 20)), rounds=rounds,
                        ratio="a/b", bytes=27 * batch * size * size,
                    )
                )  # fmt: skip
            rows += parts(batch, size, rounds, options)
    return harness.report("augment", rows, options)


def parts(batch: int, size: int, rounds: int, options: Options) -> list[Row]:
    """Where the time of a strong view goes: drawing, cropping, finishing."""
    case = f"parts of the strong view, batch {batch}, {size} px"
    if not options.wants(case):
        return []
    view, x = views(size)[1], torch.from_numpy(pictures(batch, size)).permute(0, 3, 1, 2).contiguous()
    generator = torch.Generator().manual_seed(0)
    whole = seconds(lambda: view(x, generator))
    spent = {
        "drawing": seconds(lambda: view.draw(batch, (size, size), generator)),
        "cropping": _fresh(lambda: view.draw(batch, (size, size), generator), lambda draws: view.crop(x, draws)),
        "finishing": _fresh(lambda: view.draw(batch, (size, size), generator), lambda draws: view.finish(x, draws)),
        "normalising": seconds(lambda: view.normalise(x)),
    }
    values = harness.interleaved([whole, *spent.values()], rounds)
    shares = [[100 * value[k] / value[0] for value in values] for k in range(1, len(spent) + 1)]
    return [
        harness.figure(case, share, unit="%", of=name)
        for name, share in zip(spent, shares, strict=True)
    ]


def _fresh(draw: Callable[[], Any], apply: Callable[[Any], Any]) -> harness.Measure:
    """Seconds of `apply` alone, on a draw of its own each time."""

    def measure() -> float:
        draws = draw()
        return seconds(lambda: apply(draws))()

    return measure


def views(size: int) -> tuple[View, View]:
    """Our weak and strong view at `size`."""
    shared: dict[str, Any] = {"image_size": size, "resizing": "cifar", "mean": MEAN, "std": STD, "policy": POLICY}
    return build_view("weak", **shared), build_view("strong", **shared)


def batched_views(batch: int, size: int) -> Callable[[], None]:
    tensor = torch.from_numpy(pictures(batch, size)).permute(0, 3, 1, 2).contiguous()
    weak, strong = views(size)
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        weak(tensor, generator), strong(tensor, generator)

    return ours


def per_image_views(batch: int, size: int) -> Callable[[], None]:
    images = pictures(batch, size)
    weak, strong = peer_views(size, POLICY)

    def theirs() -> None:
        pairs = [(weak(image), strong(image)) for image in map(Image.fromarray, images)]
        torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    return theirs


def memory_copy(batch: int, size: int) -> Callable[[], object]:
    """27 bytes a pixel: 3 read as uint8, 2 x 3 floats written (and nothing computed)."""
    source, target = (torch.zeros(27 * batch * size * size // 2, dtype=torch.uint8) for _ in range(2))
    return lambda: target.copy_(source)


def peer_views(size: int, policy: str, resized: bool = False) -> tuple[transforms.Compose, transforms.Compose]:
    """TLlib's weak and strong pipelines at `size`; padded crops, the resize dropped as ours drops it, or resized crops."""
    pad = max(1, size // 8)
    fill = tuple(round(255 * m) for m in MEAN)
    randaugment = auto_augment.rand_augment_transform(
        policy, {"translate_const": 100, "img_mean": fill, "interpolation": Image.Resampling.BILINEAR}
    )
    for op in randaugment.ops:
        if op.aug_fn is auto_augment.posterize:
            op.aug_fn = posterize
    padded = transforms.RandomCrop(size, padding=pad, padding_mode="reflect")
    head = [transforms.RandomResizedCrop(size, scale=(0.2, 1.0)) if resized else padded, transforms.RandomHorizontalFlip()]
    tail = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return transforms.Compose(head + tail), transforms.Compose([*head, randaugment, *tail])


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    return ImageOps.posterize(image, max(1, bits))


def pictures(n: int, size: int) -> np.ndarray:
    """(n, size, size, 3) uint8: smooth waves with a little noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size][:, None, :, :, None]
    a, b, c = rng.uniform(0.1, 0.6, (3, n, 1, 1, 3))
    waves = 127 + 110 * np.sin(a * x + 9 * c) * np.cos(b * y)
    return (waves + rng.normal(0, 6, (n, size, size, 3))).clip(0, 255).astype(np.uint8)
