"""On a GPU: every method on the field's networks at 32 and 224 px, in bf16, eager and compiled; images/s, memory, shares;
and FixMatch fed by a per-image Pillow loader on all cores of the machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks import ema, harness, mixing
from benchmarks.augment import POLICY, peer_views
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import Setup, Update, bare_loop, plain_sgd, setup, suite_loop
from benchmarks.shares import PARTS, shares_of_a_step
from PIL import Image
from torch import Tensor

from ssl_bench import catalog
from ssl_bench.placement import autocast, forget_peak_memory, peak_memory

_32 = "--image-size 32 --train-resizing cifar --bottleneck-dim 0 --batch-size 64 --mu 7".split()
_224 = "--image-size 224 --bottleneck-dim 0 --batch-size 32 --mu 1".split()
NETWORKS = {
    "WRN-28-2, 32 px": ["--arch", "wrn_28_2", *_32],
    "ViT-S/2, 32 px": ["--arch", "vit_small_patch16_224", "--model-kwargs", "patch_size=2", *_32],
    "ResNet-50, 224 px": ["--arch", "resnet50", *_224],
    "ViT-S/16, 224 px": ["--arch", "vit_small_patch16_224", *_224],
    "ViT-B/16, 224 px": ["--arch", "vit_base_patch16_224", *_224],
    "Semiformer-S/4, 32 px": ["--arch", "semiformer_small_patch4", *_32],
    "Semiformer-S/16, 224 px": ["--arch", "semiformer_small_patch16", *_224],
}
# Which of them each method that does not train them all can: Semiformer trains its own, and a loss on patches needs patches.
ONLY = {name: "ViT" for name in (*catalog.pretraining_names(), "positional_label")} | {"semiformer": "Semiformer"}
# Other methods with labels of positions, where there are tokens.
POSITIONAL = {f"fixmatch --positional {kind}": ["--positional", kind] for kind in ("apl", "rpl")}
BARE = ("erm", "fixmatch")  # the methods `loops.bare_loop` writes by hand
# Layer decay is Semi-ViT's default, and a WRN does not say what its layers are.
MORE = {("semi_vit", "WRN-28-2, 32 px"): ["--layer-decay", "1"]}
PUBLISHED = [*ema.VIT_S, "--batch-size", "16"]  # Semi-ViT's batch a device: 16 labelled and 80 unlabelled images
VIEWS_GOAL = {"ResNet-50, 224 px": "<= 5"}


def rows_of_every_method(options: Options, device: torch.device) -> list[Row]:
    """Unattended: a case that fails (out of memory, a network that does not compile) leaves a row saying so."""
    rows = []
    for network, flags in NETWORKS.items():
        for what in (*catalog.method_names(), *POSITIONAL):
            name = what.split()[0]
            if not trains(what, network):
                continue
            for compiled in (False, True):
                case = f"{what}, {network}, bf16{', compiled' * compiled}"
                if options.wants(case):
                    argv = [*flags, *MORE.get((name, network), []), *POSITIONAL.get(what, []), "--precision", "bf16", *["--compile"] * compiled]
                    rows += _guarded(case, _method_rows, partial(setup, name, argv, device), network, options)
        case = f"fixmatch, {network}, bf16, against a per-image Pillow loader"
        if trains("fixmatch", network) and options.wants(case):
            rows += _guarded(case, _loader_rows, partial(setup, "fixmatch", [*flags, "--precision", "bf16"], device), options)
    return rows


def trains(what: str, network: str) -> bool:
    """Whether a method, or one of POSITIONAL, can train one of NETWORKS."""
    if "Semiformer" in network:
        return what == "semiformer"
    return ("ViT" if what in POSITIONAL else ONLY.get(what, "")) in network


def rows_of_semi_vit(options: Options, device: torch.device) -> list[Row]:
    """Semi-ViT's step on a ViT-S/16 at the published batch a device: images/s, memory, shares of mixing and moving average."""
    rows = []
    for compiled in (False,) if options.tiny else (False, True):
        case = f"semi_vit, ViT-S/16, 224 px, 16 + 80 images, bf16{', compiled' * compiled}"
        if options.wants(case):
            argv = [*(mixing.TINY if options.tiny else PUBLISHED), "--precision", "bf16", *["--compile"] * compiled]
            rows += _guarded(case, _semi_vit_rows, partial(setup, "semi_vit", argv, device), options)
    return rows


def _semi_vit_rows(case: str, s: Setup, options: Options) -> list[Row]:
    rounds = options.rounds_or(7)
    return [
        *_method_rows(case, s, "", options),
        mixing.share_of_a_step(f"mixing's share, {case}", s, options, rounds, "<= 0.02", 2),
        ema.share_of_a_step(f"moving average's share, {case}", s, options, rounds, 2),
    ]


def _guarded(case: str, rows: Callable[..., list[Row]], set_up: Callable[[], Setup], *more: Any) -> list[Row]:
    _forget()
    try:
        return rows(case, set_up(), *more)
    except (RuntimeError, ValueError) as error:  # out of memory, the compiler's errors, a network a method cannot train
        return [harness.skipped(case, " ".join(str(error).split())[:200])]


def _method_rows(case: str, s: Setup, network: str, options: Options) -> list[Row]:
    rounds, calls = options.rounds_or(7), 1 if options.tiny else 5
    forget_peak_memory(s.device)
    suite = seconds(suite_loop(s), calls, s.device)
    suite()
    peak = peak_memory(s.device) / 2**20
    if s.method.name in BARE and s.args.positional == "none":
        bare = seconds(bare_loop(s), calls, s.device)
        rows = [
            harness.compare(
                case, ("suite", suite), ("bare loop", bare), rounds=rounds, warm_up=2, ratio="a/b", goal="<= 1.05",
                work=(s.images, "images"), peak_mib=peak,
            )
        ]  # fmt: skip
    else:
        values = [1e3 * value for (value,) in harness.interleaved([suite], rounds, 2)]
        rates = [1e3 * s.images / value for value in values]
        rows = [
            harness.figure(case, values, unit="ms", of=f"a step of {s.images} images", peak_mib=peak),
            harness.figure(case, rates, unit="images/s", of="rate"),
        ]  # fmt: skip
    rows.append(harness.figure(f"peak memory, {case}", [peak], unit="MiB", of="allocated on the device"))
    if not s.args.compile:
        steps = shares_of_a_step(s, rounds, warm_up=3)
        for part in PARTS:
            goal = VIEWS_GOAL.get(network, "") if part == PARTS[0] else ""
            rows.append(harness.figure(f"share, {case}", [step[part] for step in steps], unit="%", goal=goal, of=part))
    return rows


def _loader_rows(case: str, s: Setup, options: Options) -> list[Row]:
    cores = os.cpu_count() or 1
    a = ("suite, views on the GPU", seconds(suite_loop(s), 5, s.device))
    b = (f"bare loop, Pillow in {cores} workers", seconds(pillow_loop(s, cores), 5, s.device))
    return [harness.compare(case, a, b, rounds=options.rounds_or(5), ratio="b/a", work=(s.images, "images"))]


def _forget() -> None:
    gc.collect()
    torch._dynamo.reset()
    torch.cuda.empty_cache()


class _Pairs(torch.utils.data.IterableDataset):
    """Endless (weak, strong, target) of one pool, image by image through torchvision, timm and Pillow."""

    def __init__(self, pixels: np.ndarray, targets: np.ndarray, size: int) -> None:
        self.pixels, self.targets, self.size = pixels, targets, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        worker = torch.utils.data.get_worker_info()
        random = np.random.default_rng(worker.id if worker else 0)
        weak, strong = peer_views(self.size, POLICY, resized=self.size > 32)
        while True:
            k = int(random.integers(len(self.targets)))
            image = Image.fromarray(self.pixels[k])
            yield weak(image), strong(image), int(self.targets[k])


def pillow_loop(s: Setup, workers: int) -> Update:
    """FixMatch by hand, each view made image by image in `workers` processes, pinned and copied without waiting."""
    args, model = s.args, s.build().model
    optimizer = plain_sgd(model, args)
    shares = {"labeled": max(1, workers // (1 + args.mu)), "unlabeled": max(1, workers - workers // (1 + args.mu))}
    batches = {}
    for pool, size in (("labeled", args.batch_size), ("unlabeled", args.batch_size * args.mu)):
        images = getattr(s.pools, pool)
        data = _Pairs(images.pixels.permute(0, 2, 3, 1).contiguous().numpy(), images.targets, args.image_size)
        loader = torch.utils.data.DataLoader(data, size, num_workers=shares[pool], pin_memory=True, persistent_workers=True)
        batches[pool] = iter(loader)

    def update() -> None:
        (x, x_strong, y), (u, u_strong, _) = (
            [part.to(s.device, non_blocking=True) for part in next(batches[pool])] for pool in ("labeled", "unlabeled")
        )
        optimizer.zero_grad(set_to_none=True)
        with autocast(args, s.device):
            loss = F.cross_entropy(model(x), y) + args.trade_off_cls_strong * F.cross_entropy(model(x_strong), y)
        loss.backward()
        with autocast(args, s.device):
            with torch.no_grad():
                confidence, pseudo = model(u).float().softmax(1).max(1)
            loss = (F.cross_entropy(model(u_strong), pseudo, reduction="none") * (confidence > args.threshold)).mean()
        loss.backward()
        optimizer.step()

    return update
