"""Loops to compare: the suite's, through its public pieces, and what a person would write by hand for the same step.

Every `*_loop` returns a function that makes one update.  All of them draw from images held in memory (uint8 on the device)
through the same batched views, so that a ratio shows the loop and the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.augment import pictures
from torch import Tensor, nn

from ssl_bench import catalog, launch
from ssl_bench.args import Args
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.feed import training_batches, training_views
from ssl_bench.method import Batch, Method
from ssl_bench.placement import autocast, compile_networks, place
from ssl_bench.pools import Pools, make_pools
from ssl_bench.trainer import Trainer

# The field's small setting: WRN-28-2 at 32x32, 16 labelled and 112 unlabelled images a step, the papers' losses.
WRN = (
    "--arch wrn_28_2 --bottleneck-dim 0 --image-size 32 --train-resizing cifar --batch-size 16 --mu 7 --lr 0.03 "
    "--trade-off-cls-strong 0"
).split()
CLASSES = 10
LAST_STAGE = {"noisy_student": ["--generations", "1"]}  # its student's step; without, its first teacher's, which is ERM's

Update = Callable[[], None]


@dataclass(frozen=True)
class Setup:
    """A method's class, its arguments, the pools it trains on, and where."""

    method: type[Method]
    args: Any  # the method's
    pools: Pools
    device: torch.device

    @property
    def images(self) -> int:
        """Images a step sees, as the suite counts them: labelled + unlabelled, each once."""
        return self.args.batch_size * (1 + self.args.mu * bool(self.method.unlabeled_views))

    def build(self) -> Method:
        """The method on its device, with the initial weights that its seed gives (also in place of an earlier stage's)."""
        method = place(launch.build(self.method, self.args, self.pools, pretrained=False), self.args, self.device).train()
        method.prepare(self.pools)
        return method


def setup(name: str, flags: Sequence[str], device: torch.device) -> Setup:
    """Method `name` under `flags`, on synthetic images of its own --image-size."""
    method = catalog.load_method(name)
    args, _ = launch.resolve(method, ["--recipe", "none", "--scratch", "--lr-scheduler", "constant", *LAST_STAGE.get(name, []), *flags])
    args = method.stages(args)[-1].args
    images = 1000 if args.image_size <= 64 else 200
    return Setup(method, args, synthetic_pools(images, args.image_size), device)


def synthetic_pools(n: int, size: int) -> Pools:
    """`n` training images of smooth waves and noise, 4 of each of 10 classes labelled.  For timing: nothing to learn."""
    pixels = torch.from_numpy(pictures(n + 20, size)).permute(0, 3, 1, 2).contiguous()
    targets = np.arange(n + 20) % CLASSES
    train, test = (Images(targets[rows], pixels[rows]) for rows in (slice(0, n), slice(n, None)))
    return make_pools(DataSet("Waves", tuple(map(str, range(CLASSES))), train, test), 4, 0)


def suite_loop(s: Setup, method: Method | None = None) -> Update:
    """The suite's own: Trainer.update on training_batches; method: one that is built already."""
    method = method or s.build()
    trainer = Trainer(method, s.args, s.device)
    compile_networks(method, s.args)
    batches = training_batches(method, s.pools, s.args, s.device, 0)
    return lambda: trainer.update(next(batches))


def bare_loop(s: Setup) -> Update:
    """ERM's, FixMatch's or Semiformer's step by hand: the same network in the same memory format, the same views, the same
    order of backwards; indices by torch.randint, the same fused optimiser; nothing checked, counted or logged."""
    if s.method.name == "semiformer":
        return _bare_semiformer(s)
    model, draw, optimizer = _by_hand(s)
    args = s.args

    strong = args.trade_off_cls_strong > 0

    def supervised() -> None:
        (x, x_strong), y = draw.labeled(strong)
        optimizer.zero_grad(set_to_none=True)
        with autocast(args, s.device):
            loss = F.cross_entropy(model(x), y)
            if strong:
                loss = loss + args.trade_off_cls_strong * F.cross_entropy(model(x_strong), y)
        loss.backward()

    def erm() -> None:
        supervised()
        optimizer.step()

    def fixmatch() -> None:
        supervised()
        u, u_strong = draw.unlabeled()
        with autocast(args, s.device):
            with torch.no_grad():
                confidence, pseudo = model(u).float().softmax(1).max(1)
            each = F.cross_entropy(model(u_strong), pseudo, reduction="none")
            loss = (each * (confidence > args.threshold)).mean()
        loss.backward()
        optimizer.step()

    return {"erm": erm, "fixmatch": fixmatch}[s.method.name]


def _bare_semiformer(s: Setup) -> Update:
    """Its semi stage: labelled and strong views in one forward, weak views in eval mode without gradient, labels of the
    convolutional stream for both; one backward; AdamW without decay of vectors and of the class token."""
    args, (model, draw, _) = s.args, _by_hand(s, weak="weak" if s.args.train_resizing == "cifar" else "weak_short")
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        split[parameter.ndim > 1 and name != "cls_token"].append(parameter)
    groups = [{"params": split[False], "weight_decay": 0.0}, {"params": split[True], "weight_decay": args.wd}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, args.beta2), fused=s.device.type in ("cpu", "cuda"))

    def update() -> None:
        x, y = draw.labeled_strong()
        u, u_strong = draw.unlabeled()
        optimizer.zero_grad(set_to_none=True)
        with autocast(args, s.device):
            streams = model(torch.cat([x, u_strong]))
            conv, trans = (F.cross_entropy(z[: len(x)], y, label_smoothing=args.label_smoothing) for z in streams)
            supervised = (conv + trans) / 2
            model.eval()
            with torch.no_grad():
                confidence, pseudo = model(u)[0].float().softmax(1).max(1)
            model.train()
            conv_u, trans_u = (F.cross_entropy(z[len(x) :], pseudo, reduction="none") for z in streams)
            each = (conv_u + trans_u) / 2
            loss = supervised + args.trade_off_self_training * (each * (confidence >= args.threshold)).mean()
        loss.backward()
        optimizer.step()

    return update


def published_loop(s: Setup) -> Update:
    """FixMatch as it is published: one forward of labelled weak, unlabelled weak and unlabelled strong views together, in
    NCHW and fp32, with gradients through the weak views too; one backward; plain SGD with Nesterov momentum."""
    model, draw, _ = _by_hand(s, torch.contiguous_format)
    optimizer = plain_sgd(model, s.args)

    def update() -> None:
        (x, _), y = draw.labeled(strong=False)
        u, u_strong = draw.unlabeled()
        published_step(model, optimizer, Batch((x,), y, (u, u_strong), y, y), s.args.threshold)

    return update


def published_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, threshold: float) -> tuple[Tensor, Tensor]:
    """One update on the first labelled and the two unlabelled views of `batch`; its two loss terms."""
    x, (u, u_strong) = batch.x_l[0], batch.x_u
    optimizer.zero_grad(set_to_none=True)
    y, y_weak, y_strong = model(torch.cat([x, u, u_strong]).contiguous()).split([len(x), len(u), len(u)])
    confidence, pseudo = y_weak.detach().softmax(1).max(1)
    supervised = F.cross_entropy(y, batch.y_l)
    unsupervised = (F.cross_entropy(y_strong, pseudo, reduction="none") * (confidence > threshold)).mean()
    (supervised + unsupervised).backward()
    optimizer.step()
    return supervised.detach(), unsupervised.detach()


class _Draw:
    """Batches of views by torch.randint, images resident on the device."""

    def __init__(self, s: Setup, weak: str = "weak") -> None:
        self.args, self.device = s.args, s.device
        labeled, unlabeled = s.pools.labeled.pixels, s.pools.unlabeled.pixels
        assert labeled is not None and unlabeled is not None, "a set in memory"
        self.labeled_pixels, self.unlabeled_pixels = labeled.to(s.device), unlabeled.to(s.device)
        self.targets = torch.from_numpy(s.pools.labeled.targets).to(s.device)
        self.weak, self.strong = training_views((weak, "strong"), s.args)
        self.generator = torch.Generator().manual_seed(0)

    def _rows(self, n: int, count: int) -> Tensor:
        return torch.randint(n, (count,), generator=self.generator).to(self.device)

    def labeled(self, strong: bool = True) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
        rows = self._rows(len(self.targets), self.args.batch_size)
        x = self.labeled_pixels[rows]
        return (self.weak(x, self.generator), self.strong(x, self.generator) if strong else None), self.targets[rows]

    def labeled_strong(self) -> tuple[Tensor, Tensor]:
        rows = self._rows(len(self.targets), self.args.batch_size)
        return self.strong(self.labeled_pixels[rows], self.generator), self.targets[rows]

    def unlabeled(self) -> tuple[Tensor, Tensor]:
        x = self.unlabeled_pixels[self._rows(len(self.unlabeled_pixels), self.args.batch_size * self.args.mu)]
        return self.weak(x, self.generator), self.strong(x, self.generator)


def _by_hand(
    s: Setup, memory_format: torch.memory_format | None = None, weak: str = "weak"
) -> tuple[nn.Module, _Draw, torch.optim.Optimizer]:  # fmt: skip
    model = s.build().model
    model = model if memory_format is None else model.to(memory_format=memory_format)
    optimizer = plain_sgd(model, s.args, fused=s.device.type in ("cpu", "cuda"))  # as the suite's
    if s.args.compile:
        model.compile()
    return model, _Draw(s, weak), optimizer


def plain_sgd(model: nn.Module, args: Args, fused: bool = False) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=args.wd, fused=fused)
