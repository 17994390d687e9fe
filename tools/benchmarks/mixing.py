"""Probabilistic pseudo mixup: the batch at once against a loop over its images, and its share of a step of Semi-ViT.

Both sides draw permutation, coins and boxes once a call, and make images and soft targets of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks import harness
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import CLASSES, Setup, setup, suite_loop
from torch import Tensor

from ssl_bench.devices import pick_device
from ssl_bench.mixup import Mix, draw_pseudo_mixup, mix_batch
from ssl_bench.transformer_args import draw_mix

SMOOTHING = 0.1
BATCHES = ((640, 32), (640, 224))  # the published 5 x 128 unlabelled images
STEPS = {
    "test_vit, 8 px, 32 + 160 images": (
        "--arch test_vit --model-kwargs patch_size=2 --image-size 8 --train-resizing cifar --batch-size 32 --mu 5".split(), 21, ""
    ),
    "ViT-S/16, 224 px, 2 + 10 images": ("--arch vit_small_patch16_224 --image-size 224 --batch-size 2 --mu 5".split(), 3, "<= 0.02"),
}  # fmt: skip
TINY = "--arch test_vit --model-kwargs patch_size=2 --image-size 8 --train-resizing cifar --batch-size 2 --mu 2".split()


def run(options: Options) -> dict[str, Any]:
    """One thread, or --threads.  The goals are Semi-ViT's issue: 10 times a loop's speed, 2 % of a step of a ViT-S."""
    device = pick_device(options.device)
    rows: list[Row] = []
    with harness.threads(options.threads or 1):
        for batch, size in ((4, 8),) if options.tiny else BATCHES:
            rows += _against_a_loop(batch, size, options, device)
            if options.wants(case := f"gathering partners, batch {batch}, {size} px"):
                rows.append(_gathering(case, batch, size, options, device))
        for step, (flags, rounds, goal) in STEPS.items():
            if options.wants(case := f"share of a semi_vit step, {step}"):
                s = setup("semi_vit", TINY if options.tiny else flags, device)
                rows.append(share_of_a_step(case, s, options, rounds, goal))
    return harness.report("mixing", rows, options, device)


def _against_a_loop(batch: int, size: int, options: Options, device: torch.device) -> list[Row]:
    case, floor = f"batch {batch}, {size} px", f"distance to the floor, batch {batch}, {size} px"
    if not (options.wants(case) or options.wants(floor)):
        return []
    x, label, confidence = examples(batch, size, device)
    rounds, random = options.rounds_or(31 if size < 64 else 7), np.random.default_rng(0)

    def sides(mixed: Callable[..., Any]) -> harness.Measure:
        return seconds(lambda: mixed(x, label, draw(batch, random), CLASSES, SMOOTHING, confidence), 1, device)

    a, rows = ("mix_batch", sides(mix_batch)), []
    if options.wants(case):
        b = ("loop over images", sides(loop_over_images))
        work = (batch, "images")
        rows.append(harness.compare(case, a, b, rounds=rounds, warm_up=2, ratio="b/a", goal=">= 10", work=work))
    if options.wants(floor):
        source, target = (torch.zeros(6 * x.numel(), dtype=torch.uint8, device=device) for _ in range(2))
        b = ("copy of the same bytes", seconds(lambda: target.copy_(source), 1, device))
        rows.append(harness.compare(floor, a, b, rounds=rounds, warm_up=2, ratio="a/b", bytes=12 * x.numel()))
    return rows


def _gathering(case: str, batch: int, size: int, options: Options, device: torch.device) -> Row:
    """What new memory costs: both sides of `_against_a_loop` write their images into some."""
    x, _, _ = examples(batch, size, device)
    partner, out = torch.randperm(batch, generator=torch.Generator().manual_seed(0)).to(device), torch.empty_like(x)
    a = ("into new memory", seconds(lambda: x.index_select(0, partner), 1, device))
    b = ("into memory in use", seconds(lambda: torch.index_select(x, 0, partner, out=out), 1, device))
    return harness.compare(case, a, b, rounds=options.rounds_or(9), warm_up=2, ratio="a/b")


def examples(batch: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, S, S), labels (n,) and confidences (n,) of noise."""
    random = torch.Generator().manual_seed(0)
    x, label = torch.randn(batch, 3, size, size, generator=random), torch.randint(CLASSES, (batch,), generator=random)
    confidence = 1 / CLASSES + (1 - 1 / CLASSES) * torch.rand(batch, generator=random)
    return x.to(device), label.to(device), confidence.to(device)


def draw(n: int, random: np.random.Generator) -> Mix:
    return draw_pseudo_mixup(n, mixup=0.8, cutmix=1.0, switch_prob=0.5, random=random)


def loop_over_images(
    x: Tensor, label: Tensor, mix: Mix, num_classes: int, smoothing: float, confidence: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`mix_batch` as the published code does it: in Python, image by image; of the confidences one copy comes to the host."""
    images, targets = x.clone(), []
    height, width = x.shape[2:]
    sure, labels, centre = confidence.tolist(), label.tolist(), mix.centre.tolist()
    for i, (j, cut) in enumerate(zip(mix.partner.tolist(), mix.cut.tolist(), strict=True)):
        own = sure[i] / (sure[i] + sure[j])
        if cut:
            h, w = int(height * (1 - own) ** 0.5), int(width * (1 - own) ** 0.5)
            top, left = int(centre[i][0] * height) - h // 2, int(centre[i][1] * width) - w // 2
            bottom, right = min(top + h, height), min(left + w, width)
            top, left = max(top, 0), max(left, 0)
            images[i, :, top:bottom, left:right] = x[j, :, top:bottom, left:right]
            own = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            images[i] = own * x[i] + (1 - own) * x[j]
        target, partner = (torch.full((num_classes,), smoothing / num_classes, device=x.device) for _ in range(2))
        target[labels[i]] += 1 - smoothing
        partner[labels[j]] += 1 - smoothing
        targets.append(own * target + (1 - own) * partner)
    return images, torch.stack(targets)


def share_of_a_step(case: str, s: Setup, options: Options, rounds: int, goal: str = "", warm_up: int = 1) -> Row:
    """Drawing and mixing of the pseudo-labelled images of a step / that whole step."""
    args, random = s.args, np.random.default_rng(0)
    n = args.batch_size * args.mu
    x, label, confidence = examples(n, args.image_size, s.device)

    def mixed() -> None:
        mix_batch(x, label, draw_mix(args.pseudo_mixup, n, args, random), CLASSES, args.pseudo_smoothing, confidence)

    a = ("mix_batch", seconds(mixed, 1 if options.tiny else 5, s.device))
    b = ("semi_vit step", seconds(suite_loop(s), 1, s.device))
    return harness.compare(case, a, b, rounds=options.rounds_or(rounds), warm_up=warm_up, ratio="a/b", goal=goal)
